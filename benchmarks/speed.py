"""One question on checkpoints of real shapes: both vision backends, beside llama.cpp's own tool where it is given.

    python -m benchmarks.speed [--llama-cpp BIN] [--shape smolvlm-256m] [--repeat 5] [--keep FOLDER]

BIN is a folder with `llama-mtmd-cli`, built from the source of the llama.cpp inside the installed llama-cpp-python (vendor/
llama.cpp of its source distribution). Weights are random: speed does not depend on them. Everything alternates within one
repetition; medians are quoted, ratios are medians of the repetitions' ratios. The picture is 1024 x 1024 and the longest edge
1024, so that at high detail both sides encode the same five tiles. Of llama-mtmd-cli counts what comes after it has loaded:
from its first encode to its end.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shapes import SHAPES, make
from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import cores
from edge_vqa.model import Model, load

TOKENS = 4
QUESTIONS = ("what is this?", "is it an animal?")


def prepare(folder: Path, shape: str) -> Path:
    """A bundle with both towers: LM q4_k_m, mmproj f16 (llama.cpp's fastest quantised type here), ONNX int8."""
    if not (folder / "bundle").exists():
        make(folder / "checkpoint", shape)
        settings = folder / "checkpoint" / "preprocessor_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"size": {"longest_edge": 1024}}))
        options = Options(vision_type="f16", vision_backend="both", max_tokens=TOKENS, threads=cores())
        convert(folder / "checkpoint", folder / "bundle", options)
    return folder / "bundle"


def mtmd_cli(tool: Path, bundle: Bundle, picture: Path, question: str, threads: int) -> list[str]:
    """A llama-mtmd-cli process that answers one question."""
    command = [tool, "-m", bundle.files["lm"], "--mmproj", bundle.files["vision"], "--image", picture]
    command += ["-p", question, "-n", TOKENS, "-t", threads, "--temp", 0, "--no-warmup"]
    return list(map(str, command))


def theirs(tool: Path, bundle: Path, picture: Path) -> float:
    """Seconds of llama-mtmd-cli from its first encode to its end."""
    command = mtmd_cli(tool, store.read(bundle), picture, QUESTIONS[0], cores())
    began = time.perf_counter()
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - began
    stamp = re.search(r"^(\d+)\.(\d+)\.(\d+)\.(\d+) \S+ encoding mtmd", out.stdout + out.stderr, re.MULTILINE)
    assert stamp, "llama-mtmd-cli told no times"
    minutes, seconds, milli, micro = map(int, stamp.groups())
    return wall - (60 * minutes + seconds + milli / 1e3 + micro / 1e6)


def seconds(model: Model, picture: Path, question: str, detail: str) -> float:
    began = time.perf_counter()
    model.ask(picture, question, detail=detail)
    return time.perf_counter() - began


def cold(bundle: Path, picture: Path, backend: str) -> float:
    """Seconds of a whole `edge-vqa ask` process at low detail."""
    command = [sys.executable, "-m", "edge_vqa", "ask", picture, QUESTIONS[0], "--model", bundle, "--vision", backend]
    began = time.perf_counter()
    done = subprocess.run([*map(str, command), "--detail", "low", "--no-gate"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def measure(bundle: Path, repeat: int, tool: Path | None, work: Path) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    rng = np.random.default_rng(0)
    with load(bundle, vision="mtmd", pictures=1) as mtmd, load(bundle, vision="onnx", pictures=1) as onnx:
        for number in range(repeat + 1):
            picture, photo = work / "picture.png", work / "photo.png"
            Image.fromarray(rng.integers(0, 256, (1024, 1024, 3), np.uint8)).save(picture)  # another one: no cache helps
            Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(photo)
            found: dict[str, float] = {}
            if tool:
                found["llama-mtmd-cli, five tiles"] = theirs(tool, bundle, picture)
            for name, model in (("mtmd", mtmd), ("onnx", onnx)):
                for detail in ("high", "low"):
                    for place, question in zip(("first", "second"), QUESTIONS, strict=True):
                        found[f"{name}, {detail}, {place} question"] = seconds(model, picture, question, detail)
                found[f"{name}, cold process, 640 x 480, low"] = cold(bundle, photo, name)
            for name, value in found.items() if number else ():  # the first repetition warms up
                times[name].append(value)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--shape", choices=[name for name in SHAPES if "smol" in name], action="append")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for checkpoints and bundles, used again the next time")
    chosen = parser.parse_args()
    tool = chosen.llama_cpp / "llama-mtmd-cli" if chosen.llama_cpp else None
    with tempfile.TemporaryDirectory() as name:
        for shape in chosen.shape or ["smolvlm-256m", "smolvlm-500m"]:
            bundle = prepare((chosen.keep or Path(name)) / shape, shape)
            times = measure(bundle, chosen.repeat, tool, Path(name))
            base = times.get("llama-mtmd-cli, five tiles")
            print(f"{shape}, {cores()} threads, median of {chosen.repeat}, seconds (range)", flush=True)
            for key, values in times.items():
                ratio = ""
                if base and key != "llama-mtmd-cli, five tiles" and "high, first" in key:
                    each = [a / b for a, b in zip(values, base, strict=True)]
                    ratio = f"; {statistics.median(each):.2f} x llama-mtmd-cli"
                if "second" in key:
                    first = times[key.replace("second", "first")]
                    ratio = f"; {statistics.median(a / b for a, b in zip(values, first, strict=True)):.1%} of the first"
                print(f"  {key:36} {statistics.median(values):6.3f} ({min(values):.3f}-{max(values):.3f}){ratio}", flush=True)


if __name__ == "__main__":
    main()
