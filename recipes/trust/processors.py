"""The same questions on several builds of llama.cpp's CPU code: how far confidences differ, and how many decisions flip.

    python -m recipes.trust.processors BUNDLE QUESTIONS.jsonl -o FOLDER [--most 1000]    # after `make wheels`

llama.cpp rounds activations to 8 bits before it multiplies quantised weights, in blocks and in an order that each build
chooses for its instructions: the same question gives slightly other logits on another processor. The wheel of `recipes.wheels`
carries all variants for x86-64; those that this CPU runs are tried, each in a process of its own, weights laid out anew or
not, and the fastest also with four threads and with eight questions together. Writes one file of traces a build; those that
are there stay.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from recipes import wheels

WHEELS = Path("wheels")
LIBRARY = Path("build/trust/library")  # the wheel, unpacked
VARIANTS = ("x64", "sse42", "haswell", "skylakex", "icelake", "zen4", "sapphirerapids")


@dataclass(frozen=True)
class Build:
    """variant: of the CPU code; repacked: weights laid out anew; threads; together: questions in one go."""

    variant: str
    repacked: bool = False
    threads: int = 1
    together: int = 1

    @property
    def name(self) -> str:
        parts = [self.variant, "repacked" * self.repacked, f"{self.threads}threads" * (self.threads > 1)]
        return "_".join(part for part in [*parts, f"{self.together}together" * (self.together > 1)] if part)


def builds() -> list[Build]:
    found = [Build(variant, repacked) for variant in VARIANTS for repacked in (False, True)]
    fastest = [Build(variant, True, threads, together) for variant in VARIANTS for threads, together in ((4, 1), (1, 8))]
    return found + [build for build in fastest if build.variant == "zen4"]


def collect(build: Build, bundle: str, questions: Path, most: int, output: Path) -> None:
    """In a process of its own: llama.cpp is loaded once."""
    sys.path.insert(0, str(LIBRARY.resolve()))
    from edge_vqa.bundles.manifest import llama_cpp_version
    from edge_vqa.model import load
    from edge_vqa.native import bindings, trial
    from edge_vqa.trust import trace
    from edge_vqa.work import questions as files
    from selector_onnx.collect import Origin, save, traces_of

    name = f"libggml-cpu-{build.variant}.so"
    bindings.use(trial.Library(variant=name, extra_buffers=build.repacked))
    asked = files.read(questions, labelled=True)[:most]
    with load(bundle, confidence="maxprob", threads=build.threads, sequences=build.together) as model:
        answers = list(model.ask_many(((question.image, question.question) for question in asked), gate=False))
        origin = Origin(model.bundle.name, *model.fingerprint, trace.SCHEMA, llama_cpp_version(), build.name)
    save(traces_of(origin, asked, answers), output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("questions", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="questions, the first of the file")
    parser.add_argument("--build", action="append", help="only this one (may be repeated), as in zen4_repacked")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = {build.name: build for build in builds() if build.name in (arguments.build or [build.name])}
    if arguments.only:
        output = arguments.output / f"{arguments.only}.npz"
        return collect(chosen[arguments.only], arguments.bundle, arguments.questions, arguments.most, output)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not LIBRARY.is_dir():
        (wheel,) = WHEELS.glob("llama_cpp_python-*x86_64.whl")
        wheels.run(*wheels.PIP, "install", "-q", "--no-deps", "--target", LIBRARY, wheel)
    for name in chosen:
        if not (arguments.output / f"{name}.npz").is_file():
            done = subprocess.run(
                [sys.executable, "-m", "recipes.trust.processors", *sys.argv[1:], "--only", name], check=False
            )
            print(f"{name}: {'collected' if done.returncode == 0 else 'does not run here'}", flush=True)
    return None


if __name__ == "__main__":
    main()
