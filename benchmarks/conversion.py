"""Time and memory of a conversion, beside llama.cpp's own convert + quantize, on checkpoints of real shapes.

    python -m benchmarks.conversion --llama-cpp LLAMA_CPP [--shape qwen2-vl-2b] [--repeat 3] [--quant q4_k_m]

LLAMA_CPP is the source tree of the llama.cpp inside the installed llama-cpp-python (vendor/llama.cpp of its source
distribution); without it only ours is measured. Weights are random bfloat16: speed does not depend on them. Ours and theirs
alternate; each runs in a process of its own, whose peak resident memory is read when it ends. Theirs is convert_hf_to_gguf.py
to bf16 for the LM and to q8_0 for the vision tower, then llama_model_quantize, which llama-quantize calls.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.shapes import SHAPES, make
from tests.converters.upstream import RUN

THEIRS = """
import ctypes, sys, subprocess
from pathlib import Path
llama_cpp, checkpoint, out, number, threads, pre, run = sys.argv[1:]
for file, arguments in (("whole.gguf", ["--outtype", "bf16"]), ("mmproj.gguf", ["--outtype", "q8_0", "--mmproj"])):
    command = [sys.executable, "-c", run, llama_cpp, pre, checkpoint, "--outfile", f"{out}/{file}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
quantise = '''
import sys
from edge_vqa.native import bindings
llama, _ = bindings.load()
params = llama.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
'''
subprocess.run([sys.executable, "-c", quantise, f"{out}/whole.gguf", f"{out}/lm.gguf", number, threads], check=True)
Path(f"{out}/whole.gguf").unlink()
"""


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak resident megabytes of the largest process."""
    began = time.perf_counter()
    measured = f"import resource, subprocess, sys; subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL)\n"
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    out = subprocess.run([sys.executable, "-c", measured], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, int(out.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quant", default="q4_k_m")
    chosen = parser.parse_args()
    from converters.quantisers import rtn

    threads = os.cpu_count() or 1
    for shape in chosen.shape or SHAPES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = make(folder / "checkpoint", shape)
            largest = max(math.prod(rule.shape) * 4 for rule in (*plan.lm.values(), *plan.vision.values())) / 2**20
            size = (folder / "checkpoint" / "model.safetensors").stat().st_size / 1e9
            ours, theirs = [], []
            convert = str(Path(sys.executable).with_name("edge-vqa-convert"))
            for _ in range(chosen.repeat):
                command = [convert, str(folder / "checkpoint"), "-o", str(folder / "ours"), "--force", "--quant", chosen.quant]
                ours.append(timed(command))
                if chosen.llama_cpp:
                    (folder / "theirs").mkdir(exist_ok=True)
                    number, pre = str(rtn.TYPES[chosen.quant][1]), "qwen2" if "qwen" in shape else "smollm"
                    arguments = [str(chosen.llama_cpp), str(folder / "checkpoint"), str(folder / "theirs"), number]
                    theirs.append(timed([sys.executable, "-c", THEIRS, *arguments, str(threads), pre, RUN]))
            memory = max(m for _, m in ours)
            print(f"{shape}: {size:.2f} GB of bf16, largest tensor {largest:.0f} MB in f32, {chosen.quant}, {threads} threads")
            print(f"  ours      {statistics.median(t for t, _ in ours):6.1f} s  {memory:6.0f} MB", end="")
            print(f" (allowed: 2 x {largest:.0f} + 500 = {2 * largest + 500:.0f} MB)")
            if theirs:
                print(f"  llama.cpp {statistics.median(t for t, _ in theirs):6.1f} s  {max(m for _, m in theirs):6.0f} MB")
                ratios = [a[0] / b[0] for a, b in zip(ours, theirs, strict=True)]
                spread = f"of {len(ratios)}: {min(ratios):.2f}-{max(ratios):.2f}"
                print(f"  time, ours / llama.cpp: {statistics.median(ratios):.2f} ({spread})")
            lm, tower = ((folder / "ours" / file).stat().st_size for file in ("lm.gguf", "mmproj.gguf"))
            weights = sum(math.prod(rule.stored) for n, rule in plan.lm.items() if rule.source not in plan.optional)
            whole = sum(math.prod(rule.stored) for rule in plan.vision.values()) + weights
            print(f"  LM {lm / 1e6:.0f} MB, {lm / (2 * weights):.1%} of bf16; all {(lm + tower) / 1e6:.0f} MB, ", end="")
            print(f"{(lm + tower) / (2 * whole):.1%} of bf16", flush=True)


if __name__ == "__main__":
    main()
