"""Runs the README's commands and compares, or writes, their output.

A block fenced as `console` holds lines `$ command`, each followed by what it prints. Commands that install are left alone.

    python -m tests.readme --write
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=```console\n)(.*?)(?=```)", re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")
SKIPPED = ("git ", "pip ", "make ", "python3 -m venv", ". ")


def execute(command: str) -> str:
    """What a terminal of 100 columns shows for a command, run in the root of the project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = os.environ | {"EDGE_VQA_MODEL": "", "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        ["bash", "-c", f"{{ {command}\n}} 2>&1"], capture_output=True, text=True, cwd=ROOT, env=settings, timeout=120
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def examples(text: str) -> list[tuple[str, str]]:
    """(command, output) of every command in the console blocks that can be run again."""
    found = []
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if not command.startswith(SKIPPED):
                found.append((command, output.rstrip("\n")))
    return found


def same(expected: str, actual: str, tolerance: float = 0.03) -> bool:
    """Equal texts, where decimal numbers may differ a little: processors round differently."""
    expected, actual = (text.replace("over 0.99", "0.99") for text in (expected, actual))
    if NUMBER.sub("#", expected) != NUMBER.sub("#", actual):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(actual), strict=True)
    return all(abs(float(a) - float(b)) <= tolerance for a, b in pairs)


def rewrite(text: str) -> str:
    def block(match: re.Match[str]) -> str:
        out = []
        for part in re.split(r"^\$ ", match[1], flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if not command.startswith(SKIPPED):
                output = execute(command) + "\n"
                output = "" if output == "\n" else output
            out.append(f"$ {command}\n{output}")
        return "".join(out)

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.readme --write")
    README.write_text(rewrite(README.read_text()))
