"""The package on arm64, under emulation: installed into an arm64 Debian, where the embedded model answers as it does here.

    make test-arm64                                                           # as root, on Debian x86-64; 20 minutes at first
    python -m tests.arm64 --questions build/mini/questions/mix_test.jsonl     # 1,000 test questions besides: 20 minutes more

qemu runs the arm64 programs (`qemu-user-static`), debootstrap makes the root; the wheels are those of `make wheels`, whose
llama.cpp chooses its code for each CPU. Everything lands in build/arm64, and is used again; raspberry_pi_5.txt,
raspberry_pi_4.txt and max.txt hold what was said. Seconds there are emulated ones, and say nothing about a board.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

from recipes import wheels

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = Path(sys.executable).parent.absolute()
WORK = ROOT / "build" / "arm64"
WHEELS, SYSTEM = ROOT / "wheels", WORK / "root"
NEEDED = ("qemu-user-static", "debootstrap", *wheels.NEEDED)
# From the header of an arm64 ELF program: what binfmt_misc recognises it by (Debian's qemu-aarch64.conf)
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
WITHIN = 1e-2  # confidence, arm64 against x86-64
# Shares of equal answers and of confidences so near. Kernels for quantised weights round activations to 8 bits, by which two
# builds for x86-64 differ as well (docs/arm64.md)
QUANTISED, UNQUANTISED = (0.98, 0.8), (1.0, 0.99)


class Board(NamedTuple):
    """name: of its profile, and of its record in tests/data/boards; cpu: as qemu calls it; variant: of llama.cpp's CPU code,
    which it has to choose."""

    name: str
    cpu: str
    variant: str


PI_5 = Board("raspberry_pi_5", "cortex-a76", "armv8.2_2")
PI_4 = Board("raspberry_pi_4", "cortex-a72", "armv8.0_1")
MAX = Board("max", "max,pauth-impdef=on", "armv9.2_2")  # everything that qemu knows; pointer signatures cheaper to emulate
BOARDS = {board.name: board for board in (PI_5, PI_4, MAX)}


def prepare() -> None:
    """Programs of the host, the emulator's registration, the arm64 root, and the wheels."""
    programs = ("debootstrap", "qemu-aarch64-static", "aarch64-linux-gnu-g++", "ninja", wheels.CLANG)
    if any(shutil.which(name) is None for name in programs):
        wheels.run("apt-get", "update", "-q")
        wheels.run("apt-get", "install", "-y", "-q", "--no-install-recommends", *NEEDED)
    binfmt = Path("/proc/sys/fs/binfmt_misc")
    if not (binfmt / "register").exists():
        wheels.run("mount", "-t", "binfmt_misc", "binfmt_misc", binfmt)
    if not (binfmt / "qemu-aarch64").exists():
        (binfmt / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{MASK}:/usr/bin/qemu-aarch64-static:F")
    if not (SYSTEM / "usr/bin/python3").exists():
        sites = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True)
        shutil.rmtree(SYSTEM, ignore_errors=True)
        included = "--include=python3,python3-venv"
        wheels.run("debootstrap", "--arch=arm64", "--variant=minbase", included, "bookworm", SYSTEM, sites.stdout.split()[0])
    wheels.make(WHEELS, (wheels.ARM64,))


class Guest:
    """The arm64 root with the CPU of a board; keeps what it said."""

    def __init__(self, board: Board, transcript: TextIO) -> None:
        self.board, self._transcript = board, transcript
        # the host's, but for the CPU, which programs would see as the host's
        cpuinfo = ROOT / "tests/data/boards" / board.name / "proc/cpuinfo"
        if not cpuinfo.is_file():  # another arm64 one: ONNX Runtime's import ends with SIGSEGV where it is empty
            cpuinfo = ROOT / "tests/data/boards" / PI_5.name / "proc/cpuinfo"
        mounts = {"/proc": "proc", cpuinfo: "proc/cpuinfo", "/sys": "sys", "/dev": "dev"}
        places = [shlex.join(("mount", "--bind", "-o", "ro", f"{source}", f"{SYSTEM / at}")) for source, at in mounts.items()]
        inside = " && ".join([*places, f'exec chroot {shlex.quote(str(SYSTEM))} env -i -C /root "$@"'])
        settings = {"PATH": f"/opt/{board.name}/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": board.cpu}
        # mounts that end with the program
        self._enter = ("unshare", "--mount", "sh", "-c", inside, "sh", *(f"{name}={value}" for name, value in settings.items()))

    def __call__(self, *command: str, stdin: str = "", status: tuple[int, ...] = (0,)) -> str:
        began = time.perf_counter()
        done = subprocess.run(
            [*self._enter, *command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        seconds = time.perf_counter() - began
        piped = f'printf "{stdin}" | '.replace("\n", "\\n") if stdin else ""
        shown = shlex.join(command).replace("'", '"')
        self.say(f"$ {piped}{shown}\n{done.stdout}[{seconds:.1f} s, emulated]\n")
        assert done.returncode in status, f"exit status {done.returncode}"
        return done.stdout

    def say(self, text: str) -> None:
        print(text, flush=True)
        self._transcript.write(text + "\n")
        self._transcript.flush()


def install(guest: Guest) -> None:
    """From the folder of wheels alone, as on a device without a compiler."""
    name, there = guest.board.name, SYSTEM / "root/wheels"
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(WHEELS, there, ignore=shutil.ignore_patterns("*_x86_64.whl"))
    if not (SYSTEM / "opt" / name / "bin/pip").exists():
        guest("python3", "-m", "venv", f"/opt/{name}")
    quiet = ("-q", "--disable-pip-version-check", "--force-reinstall")
    guest("pip", "install", *quiet, "--no-index", "--find-links", "wheels", "edge-vqa")


def every_question() -> str:
    """Each example's question, about each example; those of the examples come first."""
    known = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text().splitlines()]
    own = [(line["image"], line["question"]) for line in known]
    pictures, asked = (dict.fromkeys(kind) for kind in zip(*own, strict=True))
    pairs = dict.fromkeys([*own, *((image, question) for image in pictures for question in asked)])
    lines = [{"question_id": f"{n}", "image": image, "question": question} for n, (image, question) in enumerate(pairs)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def compare(guest: Guest, *command: str, result: str, own: int = 0) -> tuple[float, float]:
    """Ask there and here -> shares of equal answers and of near confidences. The first `own` answers have to be equal."""
    here = WORK / "here"
    for folder in (SYSTEM / "root", here):
        (folder / result).unlink(missing_ok=True)
    guest("edge-vqa", *command, "-o", result.split("/")[0])
    wheels.run(PROGRAMS / "edge-vqa", *command, "-o", here / result.split("/")[0], cwd=SYSTEM / "root")
    theirs, ours = (
        [json.loads(line) for line in (folder / result).read_text().splitlines()] for folder in (SYSTEM / "root", here)
    )
    assert [line["question_id"] for line in theirs] == [line["question_id"] for line in ours]
    pairs = list(zip(theirs, ours, strict=True))
    same, verdicts = ([a[key] == b[key] for a, b in pairs] for key in ("candidate", "abstained"))
    apart = [abs(a["confidence"] - b["confidence"]) for a, b in pairs]
    near = sum(value <= WITHIN for value in apart)
    gated = any(a["threshold"] is not None for a, _ in pairs)
    guest.say(
        f"As on x86-64: {sum(same)} of {len(same)} answers{f', {sum(verdicts)} verdicts' if gated else ''}. Confidences: "
        f"{near} within {WITHIN}, median {statistics.median(apart):.4f}, at most {max(apart):.4f} apart.\n"
    )
    assert all(same[:own]) and all(verdicts[:own])
    return sum(same) / len(same), near / len(apart)


def random_llava(folder: Path) -> None:
    """A small LLaVA with random weights, for its class token: in the wrong place, the answers are others."""
    from converters.convert import convert
    from converters.options import Options
    from tests.converters.random_checkpoints import make

    checkpoint = make(WORK / "llava", "llava")
    convert(checkpoint, folder, Options(quant="f32", vision_type="f32", name="llava", max_tokens=4, force=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="The package on arm64, under emulation.")
    parser.add_argument("--questions", type=Path, help="questions with answers, JSON lines, to be asked too")
    parser.add_argument("--first", type=int, default=1000, help="how many of them (a new picture takes a second)")
    parser.add_argument("--board", action="append", choices=BOARDS, help="one of them only; may be given again")
    chosen = parser.parse_args()
    assert platform.machine() == "x86_64" and os.geteuid() == 0, "needs root on x86-64 Debian"
    (WORK / "here").mkdir(parents=True, exist_ok=True)
    prepare()
    home = SYSTEM / "root"
    shutil.copytree(EXAMPLES, home / "examples", dirs_exist_ok=True)
    (home / "examples/every.jsonl").write_text(every_question())
    own = len((EXAMPLES / "questions.jsonl").read_text().splitlines())
    unquantised = ("--quant", "f16", "--vision-type", "f16", "--name", "unquantised", "--max-tokens", "12")
    wheels.run(
        PROGRAMS / "edge-vqa-convert", ROOT / "recipes/mini/checkpoint", "-o", home / "unquantised", "--force", *unquantised
    )
    random_llava(home / "llava")
    batch = ("batch", "examples/every.jsonl", "--show-candidate")
    for board in (BOARDS[name] for name in chosen.board or BOARDS):
        with (WORK / f"{board.name}.txt").open("w") as transcript:
            guest = Guest(board, transcript)
            guest("uname", "-m")
            install(guest)
            assert f"libggml-cpu-{board.variant}.so" in guest("edge-vqa", "doctor", status=(0, 1) if board is MAX else (0,))
            assert guest("edge-vqa", "ask", "examples/price.png", "how much is it?").startswith("$4.50\n")
            guest("edge-vqa", "ask", "examples/coffee.jpg", "what is this?", status=(3,))
            guest("edge-vqa", "chat", "examples/fruit.png", stdin="what is left of the banana?\nis it an animal?\n")
            guest("edge-vqa", "bench", "--repeat", "3")
            models = [((), QUANTISED), (("--no-gate", "--model", "llava"), UNQUANTISED)]
            if board is not MAX:
                models.append((("--no-gate", "--model", "unquantised"), UNQUANTISED))
            for options, least in models:
                reached = compare(guest, *batch, *options, result="answers.jsonl", own=own)
                assert all(share >= bound for share, bound in zip(reached, least, strict=True)), reached
            if chosen.questions and board is PI_5:
                labelled = chosen.questions.read_text().splitlines(keepends=True)[: chosen.first]
                for line in map(json.loads, labelled):
                    (home / line["image"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(chosen.questions.parent / line["image"], home / line["image"])
                (home / "labelled.jsonl").write_text("".join(labelled))
                compare(guest, "eval", "labelled.jsonl", result="report/answers.jsonl")


if __name__ == "__main__":
    main()
