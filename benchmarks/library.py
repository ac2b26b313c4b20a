"""What instruction sets and extra buffer types are worth: prefill and decoding of the SmolVLM shapes by every way of using
the installed llama.cpp that this CPU can run, and by other installations of it.

    python -m benchmarks.library [--keep FOLDER] [--also NAME=FOLDER ...] [--repeat 7]

NAME=FOLDER: another llama-cpp-python, as `pip install --target FOLDER --no-deps WHEEL` makes it. Each measurement is a process
of its own; the ways alternate, medians are quoted, ratios are medians of the repetitions' ratios to the first way. On a CPU
with AMX this tells what AMX is worth: extra buffer types are what uses it. Of a build with several variants of its CPU code the
best one is measured, and those that --variant names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.peers import DECODED, SHAPES
from benchmarks.speed import QUESTIONS, prepare
from edge_vqa.bundles import store
from edge_vqa.device.profile import cores
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.llama import Run
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.llm.threads import Threads
from edge_vqa.native import bindings, trial
from edge_vqa.native.trial import Library
from edge_vqa.pictures.open import Picture
from edge_vqa.trust.trace import TokenTrace

PREFILLED = 512


def measure(folder: Path, library: Library) -> dict[str, float]:
    """Tokens a second, in this process."""
    bindings.use(library)
    bundle = store.read(folder)
    pixels, prompt = bundle.manifest.runtime.preprocessing, bundle.manifest.prompt
    engine = Engine(bundle.files["lm"], bundle.files["vision"], pixels, threads=Threads.of(cores()))
    tokens = np.random.default_rng(0).integers(1000, 2000, PREFILLED).tolist()
    seconds = []
    for _ in range(3):
        engine.lm.clear()
        began = time.perf_counter()
        engine.lm.prefill([Run(0, 0, tokens)])
        seconds.append(time.perf_counter() - began)
    engine.lm.clear()
    picture = Picture(np.random.default_rng(0).integers(0, 256, (pixels.tile, pixels.tile, 3), np.uint8))
    engine.open_prefix(engine.embed(picture_pieces(picture, "low", prompt, pixels)))
    question = question_pieces(QUESTIONS[0], prompt)
    speeds = []
    for _ in range(3):
        stamps = [time.perf_counter() for step in engine.answer(question, DECODED + 1) if isinstance(step, TokenTrace)]
        speeds.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    engine.close()
    return {"prefill": PREFILLED / min(seconds[1:]), "decode": max(speeds[1:])}


def ways(variants: list[str]) -> list[Library]:
    """How the installed llama.cpp can be used: variants of its CPU code with and without extra buffer types, AMX among them."""
    found = trial.library()
    names = [found.variant, *(full for name in variants if (full := f"libggml-cpu-{name}.so") in trial.variants())]
    kinds = [(True, False)] * (not found.without_amx) + [(True, True)] * ("AMX_INT8" in found.features) + [(False, False)]
    libraries = [replace(found, variant=name, extra_buffers=on, without_amx=no) for name in names for on, no in kinds]
    return libraries if found.extra_buffers else [library for library in libraries if not library.extra_buffers]


def worker(command: list[str], folder: str = "") -> str:
    """This module in a process of its own, with the llama-cpp-python in `folder`."""
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
    settings = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "benchmarks.library", *command]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="folder for checkpoints and bundles, used again the next time")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME", help="as haswell, sse42, armv8.0_1")
    parser.add_argument("--ways", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ways:
        print(json.dumps([asdict(library) for library in ways(chosen.variant)]))
        return
    if chosen.measure:
        value = json.loads(chosen.measure[1])
        print(json.dumps(measure(Path(chosen.measure[0]), Library(**value))))
        return
    named = [argument for name in chosen.variant for argument in ("--variant", name)]
    places = {"installed": "", **dict(also.split("=", 1) for also in chosen.also)}
    compared = [(name, place, way) for name, place in places.items() for way in json.loads(worker(["--ways", *named], place))]
    with tempfile.TemporaryDirectory() as work:
        for shape in SHAPES:
            folder = prepare((chosen.keep or Path(work)) / shape, shape)
            found: dict[tuple[str, str], list[float]] = defaultdict(list)
            for _ in range(chosen.repeat):
                for name, place, way in compared:
                    title = f"{name} {way['variant'].removeprefix('libggml-cpu-').removesuffix('.so')}".strip()
                    without = " without AMX" if way["without_amx"] else ""
                    title += f", extra buffers{without}" if way["extra_buffers"] else ", plain"
                    for what, value in json.loads(worker(["--measure", str(folder), json.dumps(way)], place)).items():
                        found[title, what].append(value)
            print(f"\n{shape}, tokens/s, {cores()} threads, {chosen.repeat} repetitions")
            for what in ("prefill", "decode"):
                first = next(values for (_, kind), values in found.items() if kind == what)
                for (title, kind), values in found.items():
                    if kind == what:
                        ratio = statistics.median(a / b for a, b in zip(values, first, strict=True))
                        print(f"{what:8} {title:40} {statistics.median(values):8.1f}  {ratio:.3f} x", flush=True)


if __name__ == "__main__":
    main()
