"""A real server, in a process of its own."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

PROGRAM = Path(sys.executable).with_name("edge-vqa")


class Server:
    """`address`, and the lines that it has written to stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self._told = threading.Event()
        self.address = ""
        threading.Thread(target=self._read, daemon=True).start()
        assert self._told.wait(60) and self.address, "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"answers at (http://\S+)", line):
                self.address = found[1]
                self._told.set()
        self._told.set()

    def client(self, **how: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=how.pop("api_key", "none"), max_retries=0, timeout=60)


@contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """`edge-vqa serve` on a free port, with the embedded model unless another is named."""
    command = [str(PROGRAM), "serve", "--model", "mini", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield Server(process)
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


def uri(path: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg"}.get(path.suffix, "octet-stream")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def asked(path: Path, question: str) -> list[dict[str, Any]]:
    """Messages of one question about a picture."""
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": uri(path)}}]
    return [{"role": "user", "content": parts}]
