"""The package on arm64, under emulation: installed into an arm64 Debian, where the embedded model answers as it does here.

    python -m tests.arm64        (as root, on Debian x86-64; most of the time goes into compiling llama.cpp)

A draft: it has not been run to its end yet.

qemu runs the arm64 programs (`qemu-user-static`), debootstrap makes the root, llama-cpp-python is cross-compiled: compiling it
under emulation takes hours. Everything lands in build/arm64, and is used again; transcript.txt holds what was said. Seconds
there are emulated ones, and say nothing about a board.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "arm64"
WHEELS, SYSTEM = WORK / "wheels", WORK / "root"
NEEDED = ("qemu-user-static", "debootstrap", "gcc-aarch64-linux-gnu", "g++-aarch64-linux-gnu", "cmake", "ninja-build")
CPU = "cortex-a76"  # a Raspberry Pi 5's
OLDER_CPU = "cortex-a72"  # a Raspberry Pi 4's
ARCHITECTURE = "armv8.2-a+dotprod+fp16"
# From the header of an arm64 ELF program: what binfmt_misc recognises it by (Debian's qemu-aarch64.conf)
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
PLATFORMS = [
    f"{kind}_aarch64"
    for kind in ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "linux")
]
APART = 1e-2  # confidence, arm64 against x86-64


def run(*command: object, **settings: object) -> None:
    print("$", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, **settings)  # type: ignore[call-overload]


def prepare() -> None:
    """Programs of the host, the emulator's registration, the arm64 root, and the wheels for it."""
    if any(shutil.which(name) is None for name in ("debootstrap", "qemu-aarch64-static", "aarch64-linux-gnu-g++", "ninja")):
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *NEEDED)
    binfmt = Path("/proc/sys/fs/binfmt_misc")
    if not (binfmt / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", binfmt)
    if not (binfmt / "qemu-aarch64").exists():
        (binfmt / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{MASK}:/usr/bin/qemu-aarch64-static:F")
    if not (SYSTEM / "usr/bin/python3").exists():
        sites = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True)
        shutil.rmtree(SYSTEM, ignore_errors=True)
        included = "--include=python3,python3-venv,libgomp1"
        run("debootstrap", "--arch=arm64", "--variant=minbase", included, "bookworm", SYSTEM, sites.stdout.split()[0])
    WHEELS.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    if not list(WHEELS.glob("llama_cpp_python-*aarch64.whl")):
        flags = {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": "aarch64",
            "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc",
            "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
            "GGML_NATIVE": "OFF",
            "GGML_CPU_ARM_ARCH": ARCHITECTURE,
        }
        settings = os.environ | {
            "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in flags.items()),
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",  # names the wheel
        }
        from importlib.metadata import version

        wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
        run(*pip, "wheel", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python", "-w", WHEELS, wanted, env=settings)
    for old in WHEELS.glob("edge_vqa-*.whl"):
        old.unlink()
    run(*pip, "wheel", "-q", "--no-deps", "-w", WHEELS, ROOT)
    (package,) = WHEELS.glob("edge_vqa-*.whl")
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    python = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none")
    run(*pip, "download", "-q", "--only-binary", ":all:", *platforms, *python, "--find-links", WHEELS, "-d", WHEELS, package)


class Guest:
    """The arm64 root; keeps what it said."""

    def __init__(self, transcript: Path) -> None:
        self._said = transcript.open("w")
        for name in ("proc", "dev"):
            if not os.path.ismount(SYSTEM / name):
                run("mount", "--bind", f"/{name}", SYSTEM / name)

    def __call__(self, *command: str, cpu: str = CPU, stdin: str = "", status: tuple[int, ...] = (0,)) -> str:
        began = time.perf_counter()
        environment = {"PATH": "/opt/edge-vqa/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": cpu}
        done = subprocess.run(
            ["chroot", str(SYSTEM), *command], input=stdin, capture_output=True, text=True, env=environment, check=False
        )
        seconds = time.perf_counter() - began
        shown = " ".join(f'"{part}"' if " " in part else part for part in command)
        self._tell(f"$ {shown}{' < questions' if stdin else ''}\n{done.stdout}{done.stderr}[{seconds:.1f} s, emulated]\n")
        assert done.returncode in status, f"exit status {done.returncode}"
        return done.stdout

    def _tell(self, text: str) -> None:
        print(text, flush=True)
        self._said.write(text + "\n")
        self._said.flush()

    def close(self) -> None:
        self._said.close()
        for name in ("proc", "dev"):
            if os.path.ismount(SYSTEM / name):
                run("umount", "-l", SYSTEM / name)


def answers(path: Path) -> dict[str, tuple[str, float]]:
    lines = map(json.loads, path.read_text().splitlines())
    return {line["question_id"]: (line["candidate"], line["confidence"]) for line in lines}


def every_question() -> str:
    """Each example's question, about each example."""
    known = [json.loads(line) for line in (ROOT / "examples/questions.jsonl").read_text().splitlines()]
    pictures, asked = (dict.fromkeys(line[key] for line in known) for key in ("image", "question"))
    pairs = [(image, question) for image in pictures for question in asked]
    lines = [{"question_id": f"{n}", "image": image, "question": question} for n, (image, question) in enumerate(pairs)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def main() -> None:
    assert platform.machine() == "x86_64" and os.geteuid() == 0, "needs root on x86-64 Debian"
    WORK.mkdir(parents=True, exist_ok=True)
    prepare()
    shutil.copytree(ROOT / "examples", SYSTEM / "root/examples", dirs_exist_ok=True)
    shutil.copytree(WHEELS, SYSTEM / "root/wheels", dirs_exist_ok=True)
    guest = Guest(WORK / "transcript.txt")
    try:
        guest("uname", "-m")
        if not (SYSTEM / "opt/edge-vqa/bin/pip").exists():
            guest("python3", "-m", "venv", "/opt/edge-vqa")
        (package,) = (path.name for path in WHEELS.glob("edge_vqa-*.whl"))
        guest(
            *("pip", "install", "-q", "--no-index", "--find-links", "/root/wheels", "--force-reinstall"),
            *("--disable-pip-version-check", f"/root/wheels/{package}"),
        )
        guest("edge-vqa", "doctor", status=(0, 1))
        assert guest("edge-vqa", "ask", "/root/examples/price.png", "how much is it?") == "$4.50\n"
        guest("edge-vqa", "ask", "/root/examples/coffee.jpg", "what is this?", status=(3,))
        guest("edge-vqa", "chat", "/root/examples/fruit.png", stdin="what is left of the banana?\nis it an animal?\n")
        questions, ask = "examples/every.jsonl", ("--no-gate", "--show-candidate")
        (SYSTEM / "root" / questions).write_text(every_question())
        (SYSTEM / "root/answers.jsonl").unlink(missing_ok=True)
        guest("edge-vqa", "batch", f"/root/{questions}", "-o", "/root/answers.jsonl", *ask)
        here = WORK / "answers.jsonl"
        here.unlink(missing_ok=True)
        run(Path(sys.executable).with_name("edge-vqa"), "batch", SYSTEM / "root" / questions, "-o", here, *ask)
        theirs, ours = answers(SYSTEM / "root/answers.jsonl"), answers(here)
        apart = [abs(ours[name][1] - theirs[name][1]) for name in ours]
        same = sum(ours[name][0] == theirs[name][0] for name in ours)
        guest._tell(f"{same} of {len(ours)} answers are those of x86-64; confidences differ by {max(apart):.4f} at most")
        assert theirs.keys() == ours.keys() and same == len(ours) and max(apart) <= APART
        guest("edge-vqa", "bench", "--repeat", "3")
        guest("python3", "-c", "import onnxruntime; print(onnxruntime.__version__)", cpu=OLDER_CPU)
    finally:
        guest.close()


if __name__ == "__main__":
    main()
