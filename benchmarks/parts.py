"""Parts of a question alone: a tile in every type of vision tower, questions together and one by one, statistics, memory.

    python -m benchmarks.parts [--shape smolvlm-256m] [--repeat 5] [--questions QUESTIONS.jsonl]

Weights of the shape are random: speed does not depend on them. QUESTIONS, for the embedded model, each on a picture of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES, make
from converters.convert import convert
from converters.options import Options
from edge_vqa.answer import Answer
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.device import memory
from edge_vqa.device.profile import cores
from edge_vqa.llm.engine import Engine, room_for
from edge_vqa.llm.prompt import picture_pieces
from edge_vqa.model import load
from edge_vqa.pictures.open import Picture
from edge_vqa.trust.trace import step_statistics
from edge_vqa.work import questions as files

TOWERS = {f"mtmd {type_}": Options(quant="q4_k_m", vision_type=type_) for type_ in ("f32", "f16", "q8_0", "q4_0")}
TOWERS |= {f"onnx {type_}": Options(vision_backend="onnx", onnx_type=type_) for type_ in ("f32", "f16", "int8")}


def tiles(checkpoint: Path, folder: Path, repeat: int) -> dict[str, list[float]]:
    """Seconds to encode one tile, by backend and type, in turn."""
    times: dict[str, list[float]] = defaultdict(list)
    engines: dict[str, Engine] = {}
    for name, options in TOWERS.items():
        backend = name.split()[0]
        convert(checkpoint, folder / name.replace(" ", "-"), options)
        bundle = store.read(folder / name.replace(" ", "-"))
        pixels = bundle.manifest.runtime.preprocessing
        engines[name] = Engine(
            bundle.files["lm"], bundle.files[manifests.BACKENDS[backend]], pixels, backend=backend, context=64, threads=cores()
        )
    noise = np.random.default_rng(0).integers(0, 256, (pixels.tile, pixels.tile, 3), np.uint8)
    pieces = picture_pieces(Picture(noise), "low", bundle.manifest.prompt, pixels)
    for number in range(repeat + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            list(engine.embed(pieces))
            if number:
                times[name].append(time.perf_counter() - began)
    for engine in engines.values():
        engine.close()
    return times


def together(questions: Path, repeat: int) -> None:
    """The embedded model, one by one and eight together."""
    asked = [(question.image, question.question) for question in files.read(questions)]
    with load(pictures=1) as one, load(sequences=8, pictures=1) as many:
        ratios, alone, at_once = [], [], []
        for _ in range(repeat):
            began = time.perf_counter()
            first = [one.ask(image, question, gate=False) for image, question in asked]
            middle = time.perf_counter()
            second = [answer for answer in many.ask_many(asked, gate=False) if isinstance(answer, Answer)]
            alone.append((middle - began) / len(asked))
            at_once.append((time.perf_counter() - middle) / len(asked))
            ratios.append(alone[-1] / at_once[-1])
    apart = [abs(a.confidence - b.confidence) for a, b in zip(first, second, strict=True)]
    same = sum(a.candidate == b.candidate for a, b in zip(first, second, strict=True))
    print(f"{len(asked)} questions: {statistics.median(alone) * 1e3:.1f} ms each, together", end=" ")
    print(
        f"{statistics.median(at_once) * 1e3:.1f} ms, {statistics.median(ratios):.2f} times as fast; {same} equal answers;",
        end=" ",
    )
    print(f"confidences differ by {statistics.median(apart):.1e} in the median, {max(apart):.3f} at most", flush=True)


def peak(bundle: Path, backend: str) -> int:
    """Bytes of the largest resident set of a process that asks one question."""
    code = "import edge_vqa, sys; edge_vqa.load(sys.argv[1], vision=sys.argv[2]).ask('examples/cat.jpg', 'what?');"
    code += "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    out = subprocess.run([sys.executable, "-c", code, str(bundle), backend], capture_output=True, text=True, check=True)
    return 1024 * int(out.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[name for name in SHAPES if "smol" in name], default="smolvlm-256m")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--questions", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "checkpoint", chosen.shape)
        times = tiles(folder / "checkpoint", folder, chosen.repeat)
        best = [min(each) for each in zip(*(v for k, v in times.items() if k.startswith("mtmd")), strict=True)]
        print(f"{chosen.shape}, one tile, {cores()} threads, median of {chosen.repeat}")
        for tower, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, best, strict=True))
            print(f"  {tower:10} {statistics.median(values):.3f} s, {ratio:.2f} of llama.cpp's best", flush=True)
        for tower in ("mtmd q8_0", "onnx int8"):
            found, backend = folder / tower.replace(" ", "-"), tower.split()[0]
            bundle = store.read(found)
            made = memory.plan(bundle, memory.Need(backend, room_for(bundle.manifest.runtime.preprocessing)))
            parts = f"LM {made.lm:,}, tower {made.tower:,}, KV {made.kv:,} ({made.context} tokens)"
            parts += f", work {made.compute:,}, programs {made.base:,}"
            print(f"memory, {tower}: peak {peak(found, backend):,} bytes; planned {made.total:,}: {parts}", flush=True)
    row = np.random.default_rng(0).normal(0, 4, 49_280).astype(np.float32)
    began = time.perf_counter()
    for _ in range(1000):
        step_statistics(row, 0)
    print(f"statistics of a row of {len(row):,} logits: {time.perf_counter() - began:.3f} ms", flush=True)
    if chosen.questions:
        together(chosen.questions, chosen.repeat)


if __name__ == "__main__":
    main()
