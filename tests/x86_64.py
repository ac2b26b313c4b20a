"""The portable wheel on older x86-64 processors, under emulation: the embedded model answers there as it does here.

    python -m tests.x86_64        # on Debian x86-64, with qemu-user-static; 10 minutes, and the wheel's compilation at first

qemu runs Python with the instructions of each processor, children included. It knows AVX2, and no AVX-512: Skylake-Server is
a Haswell to it. Everything lands in build/x86_64; what was said there in NAME.txt. Seconds are emulated ones.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from recipes import wheels

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = Path(sys.executable).parent.absolute()
WORK = ROOT / "build" / "x86_64"
WHEELS = ROOT / "wheels"
KEYS = ("question_id", "image", "question")
CPUS = ("Nehalem", "Haswell", "Skylake-Server")


def prepare() -> Path:
    """An environment made of the wheels alone, whose Python is emulated; returns where its programs are."""
    if shutil.which("qemu-x86_64-static") is None:
        sys.exit("qemu-x86_64-static is missing: apt-get install qemu-user-static")
    wheels.make(WHEELS, (wheels.X86_64,))
    folder = WORK / "venv"
    shutil.rmtree(folder, ignore_errors=True)
    wheels.run(sys.executable, "-m", "venv", folder)
    wheels.run(folder / "bin/pip", "install", "-q", "--no-index", "--find-links", WHEELS, "edge-vqa")
    real = (folder / "bin/python").resolve()
    for path in (folder / "bin").glob("python*"):
        path.unlink()
        # -0: Python finds its environment by the name that it was called by, and children call that
        path.write_text(f'#!/bin/sh\nexec qemu-x86_64-static -0 "$0" {shlex.quote(str(real))} "$@"\n')
        path.chmod(0o755)
    return folder / "bin"


def ask(cpu: str, programs: Path, transcript: TextIO) -> None:
    """What the README shows, and every example's question, on one processor. Raises AssertionError where answers differ."""
    home = WORK / f"home-{cpu}"
    shutil.rmtree(home, ignore_errors=True)
    settings = os.environ | {"QEMU_CPU": cpu, "EDGE_VQA_HOME": str(home)}

    def say(text: str) -> None:
        print(text, flush=True)
        transcript.write(text + "\n")

    def call(*command: object, status: tuple[int, ...] = (0,)) -> str:
        began = time.perf_counter()
        arguments = [str(programs / "edge-vqa"), *map(str, command)]
        done = subprocess.run(arguments, capture_output=True, text=True, env=settings, cwd=ROOT, check=False)
        said = "".join(line + "\n" for line in done.stderr.splitlines() if not line.startswith("qemu-x86_64-static: warning"))
        say(f"$ edge-vqa {shlex.join(map(str, command))}\n{done.stdout}{said}[{time.perf_counter() - began:.1f} s, emulated]\n")
        assert done.returncode in status, done.returncode
        return done.stdout

    say(f"# {cpu}\n")
    assert call("ask", "examples/price.png", "how much is it?") == "$4.50\n"
    call("ask", "examples/coffee.jpg", "what is this?", status=(3,))
    call("doctor", status=(0, 1))  # it reads of the host in /proc/cpuinfo
    questions = WORK / "questions.jsonl"
    known = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text().splitlines()]
    asked = [line | {"question_id": f"{n}", "image": str(EXAMPLES / line["image"])} for n, line in enumerate(known)]
    questions.write_text("".join(json.dumps({key: line[key] for key in KEYS}) + "\n" for line in asked))
    answers = {}
    for name, environment in (("here", os.environ), (cpu, settings)):
        output = WORK / f"{name}.jsonl"
        output.unlink(missing_ok=True)
        program = (PROGRAMS if name == "here" else programs) / "edge-vqa"
        batch = [str(program), "batch", str(questions), "-o", str(output), "--show-candidate"]
        subprocess.run(batch, env=environment, check=True, capture_output=True)
        answers[name] = [json.loads(line) for line in output.read_text().splitlines()]
    pairs = list(zip(answers["here"], answers[cpu], strict=True))
    apart = max(abs(a["confidence"] - b["confidence"]) for a, b in pairs)
    same = sum((a["candidate"], a["abstained"]) == (b["candidate"], b["abstained"]) for a, b in pairs)
    variant = json.loads(next((home / "trials").glob("library-*.json")).read_text())["verdict"]["variant"]
    say(f"{cpu}: {variant}; {same} of {len(pairs)} answers and verdicts as here, confidences at most {apart:.4f} apart\n")
    assert same == len(pairs)


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    programs = prepare()
    for cpu in CPUS:
        with (WORK / f"{cpu}.txt").open("w") as transcript:
            ask(cpu, programs, transcript)


if __name__ == "__main__":
    main()
