"""Beside llama.cpp's own programs and `transformers`: many questions, one question, decoding, a cold start, peak memory.

    python -m benchmarks.peers --llama-cpp BIN [--keep FOLDER] [--only batch|cold|decode|memory|transformers] [--repeat 5]

BIN is a folder with llama-server, llama-mtmd-cli and llama-bench, built from the source of the llama.cpp inside the installed
llama-cpp-python (vendor/llama.cpp of its source distribution). Weights of the SmolVLM shapes are random: speed does not depend
on them. A and B alternate within one repetition; medians are quoted, ratios are medians of the repetitions' ratios. Both sides
take the same pictures, at the same number of tiles, with the same number of threads and at most four tokens an answer.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.conversion import timed
from benchmarks.speed import QUESTIONS, TOKENS, mtmd_cli, prepare
from edge_vqa.answer import Answer
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import BACKENDS
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import cores, default_threads
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.model import load
from edge_vqa.native import bindings, trial
from edge_vqa.pictures.open import Picture
from edge_vqa.trust.trace import TokenTrace

PICTURES, EACH, BLOCKS = 40, 5, 5  # pictures, questions on each, parts of the whole between which A and B alternate
DECODED = 64
SHAPES = ("smolvlm-256m", "smolvlm-500m")
Times = dict[str, list[float]]

TRANSFORMERS = """
import resource, sys, time, torch
from transformers import AutoModelForImageTextToText
checkpoint, threads, tiles, side, per_tile, words, tokens = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
net = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
image = net.config.image_token_id = net.model.image_token_id = 5
ids = torch.tensor([[6] * 20 + [image] * (tiles * per_tile) + [7] * words])
pixels = torch.randn(1, tiles, 3, side, side, dtype=torch.bfloat16)
def ask():
    began = time.perf_counter()
    with torch.no_grad():
        net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, do_sample=False,
                     max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0)
    return time.perf_counter() - began
ask()
print("seconds", ask())
"""
OURS = """
import sys, time, edge_vqa
bundle, picture, other, backend, detail = sys.argv[1:]
with edge_vqa.load(bundle, vision=backend, pictures=1) as model:
    model.ask(other, "what is this?", detail=detail)
    began = time.perf_counter()
    model.ask(picture, "what is this?", detail=detail)
    print("seconds", time.perf_counter() - began)
"""


def pictures(folder: Path, number: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
    """Files of noise, width x height: no two alike, so that no cache helps either side."""
    rng = np.random.default_rng(seed)
    made = [folder / f"{seed}-{i}.png" for i in range(number)]
    for path in made:
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return made


def show(title: str, times: Times, unit: str = "s", against: Sequence[str] = ()) -> None:
    """Medians, ranges, and for each name in `against` the median of the repetitions' ratios."""
    count = len(next(iter(times.values())))
    print(f"{title}, median of {count}, {unit} (range)")
    for name, values in times.items():
        line = f"  {name:44} {statistics.median(values):9.3f} ({min(values):.3f}-{max(values):.3f})"
        for other in against:
            if name != other:
                each = [a / b for a, b in zip(values, times[other], strict=True)]
                line += f"; {statistics.median(each):.3f} x {other}"
        print(line, flush=True)


# -- many questions ---------------------------------------------------------------------------------------------------


@contextmanager
def server(tool: Path, bundle: Bundle, threads: int) -> Iterator[str]:
    """llama-server on loopback; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [tool / "llama-server", "-m", bundle.files["lm"], "--mmproj", bundle.files["vision"], "-t", threads, "-np", 1]
    command += ["-c", 4096, "--host", "127.0.0.1", "--port", port]
    running = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                assert running.poll() is None, "llama-server ended at once"
                time.sleep(0.1)
        yield address
    finally:
        running.terminate()
        running.wait()


def served(address: str, picture: Path, question: str) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


def many(tool: Path, folder: Path, work: Path, size: tuple[int, int], detail: str) -> Times:
    """Seconds for the questions of a block: ours with each backend, llama-server one by one, and a process each (one question
    timed, times their number)."""
    bundle = store.read(folder)
    threads = default_threads(bundle.manifest.files["lm"].bytes).decode
    found = pictures(work, PICTURES, size)
    asked = [[(path, f"is it number {i}?") for path in found[b::BLOCKS] for i in range(EACH)] for b in range(BLOCKS)]
    backends = [name for name, role in BACKENDS.items() if role in bundle.files]
    models = {name: load(folder, vision=name, sequences=8) for name in backends}
    times: Times = defaultdict(list)
    with server(tool, bundle, threads) as address:
        warm = pictures(work, 1, size, seed=1)[0]
        served(address, warm, QUESTIONS[0])
        for model in models.values():
            model.ask(warm, QUESTIONS[0], detail=detail)
        for block in asked:
            for name, model in models.items():
                began = time.perf_counter()
                answers = list(model.ask_many(block, detail=detail, max_tokens=TOKENS))
                times[f"edge-vqa, {name}"].append(time.perf_counter() - began)
                assert all(isinstance(answer, Answer) for answer in answers)
            began = time.perf_counter()
            for path, question in block:
                served(address, path, question)
            times["llama-server, one by one"].append(time.perf_counter() - began)
            began = time.perf_counter()
            subprocess.run(mtmd_cli(tool / "llama-mtmd-cli", bundle, *block[0], threads), check=True, capture_output=True)
            times["llama-mtmd-cli, a process each"].append((time.perf_counter() - began) * len(block))
    for model in models.values():
        model.close()
    return times


# -- one question -----------------------------------------------------------------------------------------------------


def cold(tool: Path, repeat: int) -> Times:
    """Whole processes on the embedded model."""
    bundle, picture = store.read(None), Path("examples/cat.jpg")
    ours = [str(Path(sys.executable).with_name("edge-vqa")), "ask", str(picture), QUESTIONS[0], "--no-gate"]
    times: Times = defaultdict(list)
    for number in range(repeat + 1):
        for name, command in (
            ("llama-mtmd-cli", mtmd_cli(tool / "llama-mtmd-cli", bundle, picture, QUESTIONS[0], 1)),
            ("edge-vqa ask", ours),
        ):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def decode(tool: Path, folder: Path, repeat: int) -> Times:
    """Tokens a second: llama-bench, and ours with everything that a token costs (statistics, hidden state, text)."""
    bundle = store.read(folder)
    pixels, prompt = bundle.manifest.runtime.preprocessing, bundle.manifest.prompt
    noise = np.random.default_rng(0).integers(0, 256, (pixels.tile, pixels.tile, 3), np.uint8)
    pieces = picture_pieces(Picture(noise), "low", prompt, pixels)
    question = question_pieces(QUESTIONS[0], prompt)
    engines = {}
    for extra, name in ((True, "edge-vqa"), (False, "edge-vqa, no extra buffers")):
        if extra and not trial.library().extra_buffers:
            continue
        bindings.use_extra_buffers(extra)
        engine = engines[name] = Engine(bundle.files["lm"], bundle.files["vision"], pixels, threads=cores())
        engine.open_prefix(engine.embed(pieces))
        *_, trace = engine.answer(question, 1)
    command = [tool / "llama-bench", "-m", bundle.files["lm"], "-p", 0, "-n", DECODED, "-d", trace.prompt_tokens]
    command += ["-t", cores(), "-r", 1, "-o", "json"]
    times: Times = defaultdict(list)
    for number in range(repeat + 1):
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        if number:
            times["llama-bench"].append(float(json.loads(out)[0]["avg_ts"]))
        for name, engine in engines.items():
            stamps = [time.perf_counter() for step in engine.answer(question, DECODED + 1) if isinstance(step, TokenTrace)]
            assert len(stamps) > DECODED // 2, "the answer ended early"
            if number:
                times[name].append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    for engine in engines.values():
        engine.close()
    return times


def memory(tool: Path, folder: Path, work: Path, repeat: int) -> Times:
    """Peak resident megabytes of a process with one question at high detail."""
    bundle = store.read(folder)
    (picture,) = pictures(work, 1, (1024, 1024))
    edge = str(Path(sys.executable).with_name("edge-vqa"))
    ours = [edge, "ask", str(picture), QUESTIONS[0], "--model", str(folder), "--no-gate", "--detail", "high", "--vision"]
    commands = {"llama-mtmd-cli": mtmd_cli(tool / "llama-mtmd-cli", bundle, picture, QUESTIONS[0], cores())}
    commands |= {f"edge-vqa ask, {backend}": [*ours, backend] for backend in BACKENDS}
    times: Times = defaultdict(list)
    for _ in range(repeat):
        for name, command in commands.items():
            times[name].append(timed(command)[1])
    return times


def beside_transformers(folder: Path, work: Path, repeat: int) -> tuple[Times, Times]:
    """Seconds of a question after a first one, and peak megabytes, each in a process of its own: five tiles."""
    bundle = store.read(folder)
    pixels = bundle.manifest.runtime.preprocessing
    picture, other = map(str, pictures(work, 2, (1024, 1024)))
    numbers = [cores(), 5, pixels.tile, pixels.tile_tokens, 60, TOKENS]
    commands = {"transformers, bf16": [TRANSFORMERS, str(folder.parent / "checkpoint"), *map(str, numbers)]}
    commands |= {f"edge-vqa, {backend}": [OURS, str(folder), picture, other, backend, "high"] for backend in BACKENDS}
    seconds: Times = defaultdict(list)
    peaks: Times = defaultdict(list)
    for _ in range(repeat):
        for name, arguments in commands.items():
            code = f"import resource, subprocess, sys; subprocess.run([sys.executable, '-c', *{arguments!r}], check=True)\n"
            code += "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
            out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
            for place, key in ((seconds, "seconds"), (peaks, "peak")):
                match = re.search(rf"^{key} (\S+)$", out, re.MULTILINE)
                assert match, out
                place[name].append(float(match[1]))
    return seconds, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=["batch", "cold", "decode", "memory", "transformers"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for checkpoints and bundles, used again the next time")
    chosen = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tool, repeat = chosen.llama_cpp, chosen.repeat

    def wanted(part: str) -> bool:
        return not chosen.only or part in chosen.only

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        made = {shape: prepare((chosen.keep or work) / shape, shape) for shape in SHAPES}
        if wanted("cold"):
            show("embedded model, a process from start to verdict", cold(tool, repeat), against=["llama-mtmd-cli"])
        for shape, folder in made.items():
            if wanted("decode"):
                show(f"{shape}, decoding", decode(tool, folder, repeat), "tokens/s", ["llama-bench"])
            if wanted("memory"):
                show(f"{shape}, peak memory", memory(tool, folder, work, repeat), "MB", ["llama-mtmd-cli"])
            if wanted("transformers"):
                for unit, found in zip(("s", "MB"), beside_transformers(folder, work, repeat), strict=True):
                    show(f"{shape}, one question, five tiles", found, unit, ["transformers, bf16"])
        if wanted("batch"):
            for title, folder, size, detail in (
                ("embedded model, 64 x 64", store.read(None).folder, (64, 64), "high"),
                ("smolvlm-256m, 1024 x 768", made["smolvlm-256m"], (1024, 768), "high"),
            ):
                times = many(tool, folder, work, size, detail)
                label = f"{title}, {PICTURES * EACH // BLOCKS} questions on {PICTURES // BLOCKS} pictures"
                show(label, times, against=["llama-server, one by one", "llama-mtmd-cli, a process each"])


if __name__ == "__main__":
    main()
