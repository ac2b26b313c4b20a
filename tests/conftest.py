"""Shared fixtures: the real embedded bundle, the real checkpoint, real pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import ESTIMATORS
from edge_vqa.bundles.store import Bundle
from edge_vqa.model import Model, load

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "recipes" / "mini" / "checkpoint"
EXAMPLES = ROOT / "examples"
PROGRAMS = Path(sys.executable).parent

# the embedded model is the default here, whether or not the base model is installed
os.environ[store.CHOSEN] = "mini"

Asked = tuple[str, Path, str, str]  # id, picture, question, answer


@pytest.fixture(scope="session")
def mini() -> Bundle:
    return store.read("mini")


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with load("mini") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def f32_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint in f32, for comparison with `transformers`."""
    folder = tmp_path_factory.mktemp("bundles") / "mini-f32"
    convert(CHECKPOINT, folder, Options(quant="f32", vision_type="f32", max_tokens=12))
    return store.read(folder)


@pytest.fixture(scope="session")
def easy_questions() -> list[Asked]:
    """easy-VQA's test questions in a fixed random order."""
    import easy_vqa

    root = Path(easy_vqa.__file__).parent / "data" / "test"
    listed = json.loads((root / "questions.json").read_text())
    Random(5).shuffle(listed)
    return [(str(i), root / "images" / f"{n}.png", q, a) for i, (q, a, n) in enumerate(listed)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture file that opens."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def copied(tmp_path: Path, mini: Bundle) -> Path:
    """A copy of the embedded bundle that a test may damage."""
    import shutil

    folder = tmp_path / "copied"
    shutil.copytree(mini.folder, folder)
    return folder


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run one of our commands in a process of its own: run("edge-vqa", "ask", ...)."""

    def call(program: str, *arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)

    return call


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def without_time(path: Path) -> list[dict[str, Any]]:
    """Answers, but for the seconds they took."""
    return [
        {key: value for key, value in json.loads(line).items() if key != "total_s"} for line in path.read_text().splitlines()
    ]


def one_line(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line a failure prints; asserts that there is nothing else."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == status, f"exit status {result.returncode}: {result.stderr[-500:]}"
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    return lines[0]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json in place."""
    path = folder / manifests.MANIFEST
    decoded = json.loads(path.read_text())
    change(decoded)
    path.write_text(json.dumps(decoded))


def resign(folder: Path) -> None:
    """Make sizes and checksums in bundle.json match the files, as an attacker would."""

    def change(manifest: dict[str, Any]) -> None:
        for file in manifest["files"].values():
            path = folder / file["path"]
            file["bytes"], file["sha256"] = path.stat().st_size, store.sha256(path)
        for role in ESTIMATORS:
            if manifest.get(role):
                manifest[role]["lm_sha256"] = manifest["files"]["lm"]["sha256"]
                manifest[role]["vision_sha256"] = manifest["files"]["vision"]["sha256"]

    edit_manifest(folder, change)
