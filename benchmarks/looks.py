"""The embedded model under every way to look: both vision backends, low, high and automatic detail.

    python -m benchmarks.looks QUESTIONS.jsonl [--count 3000]

QUESTIONS have answers (build/mini/questions/mix_test.jsonl of the recipe). All ways are asked in turn, question by question:
VQA accuracy, AURC of the Selector and of MaxProb, risk and coverage at the bundle's default threshold, and time. Differences
to the first way carry 95 % intervals from a bootstrap over pictures. The Selector and its threshold are those made with
llama.cpp's vision tower at low detail: what it loses elsewhere is part of the answer.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from converters.convert import convert
from converters.options import Options
from edge_vqa import metrics
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.ready import FILES
from edge_vqa.model import load
from edge_vqa.trust.intervals import draws, interval
from edge_vqa.work import questions as files

WAYS = {
    "mtmd, low": ("mtmd", "low"),
    "onnx int8, low": ("onnx", "low"),
    "mtmd, high": ("mtmd", "high"),
    "mtmd, auto": ("mtmd", "auto"),
}
ROUNDS = 1000


def with_both_towers(work: Path) -> Path:
    """The embedded bundle, and beside its vision tower the same one in ONNX, int8."""
    own, made = store.read(None), work / "onnx"
    convert(Path("recipes/mini/checkpoint"), made, Options(vision_backend="onnx", onnx_type="int8"))
    folder = work / "both"
    shutil.copytree(own.folder, folder)
    name = FILES["vision_onnx"]
    shutil.copyfile(made / name, folder / name)
    manifest = replace(own.manifest, files=own.manifest.files | {"vision_onnx": store.describe(folder / name)})
    (folder / manifests.MANIFEST).write_text(manifests.render(manifest), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    chosen = parser.parse_args()
    every = files.read(chosen.questions, labelled=True)
    asked = [every[i] for i in np.sort(np.random.default_rng(0).permutation(len(every))[: chosen.count])]
    shape = (len(WAYS), len(asked))
    accuracy, selector, maxprob, seconds = (np.zeros(shape) for _ in range(4))
    answers = np.empty(shape, object)
    kept, looked_again = np.zeros(shape, bool), np.zeros(shape, bool)
    with tempfile.TemporaryDirectory() as name:
        folder = with_both_towers(Path(name))
        threshold = store.read(folder).manifest.default_point("selector")
        assert threshold is not None and threshold.threshold is not None
        with load(folder, vision="mtmd", pictures=1) as mtmd, load(folder, vision="onnx", pictures=1) as onnx:
            models = {"mtmd": mtmd, "onnx": onnx}
            for j, question in enumerate(asked):
                for i, (backend, detail) in enumerate(WAYS.values()):
                    began = time.perf_counter()
                    answer = models[backend].ask(
                        question.image, question.question, threshold=threshold.threshold, detail=detail
                    )
                    seconds[i, j] = time.perf_counter() - began
                    accuracy[i, j] = metrics.vqa_accuracy(answer.candidate, question.answers)
                    selector[i, j], maxprob[i, j], answers[i, j] = answer.confidence, answer.maxprob, answer.candidate
                    kept[i, j], looked_again[i, j] = not answer.abstained, detail == "auto" and answer.detail == "high"
    print(f"{len(asked)} questions of {chosen.questions.name}; threshold {threshold.threshold:.3f} ({threshold.risk:.0%} risk)")
    counts = list(draws([str(question.image) for question in asked], ROUNDS, np.random.default_rng(0)))
    for i, way in enumerate(WAYS):
        right, answered = accuracy[i], kept[i]
        print(f"{way}: accuracy {right.mean():.1%}, AURC {metrics.aurc(selector[i], right):.4f}", end="")
        print(f" (MaxProb {metrics.aurc(maxprob[i], right):.4f}), coverage {answered.mean():.1%}", end="")
        print(f", risk {1 - right[answered].mean():.1%}, {seconds[i].mean() * 1e3:.1f} ms a question", end="")
        print(f", {looked_again[i].mean():.1%} looked at twice" if looked_again[i].any() else "")
        if i:
            same = (answers[i] == answers[0]).astype(float)
            low, high = interval(np.array([np.average(same, weights=n) for n in counts]))
            print(f"  equal answers {same.mean():.2%} [{low:.2%}, {high:.2%}]", end="")
            for title, scores in (("Selector", selector), ("MaxProb", maxprob)):
                found = []
                for n in counts:
                    drawn = np.repeat(np.arange(len(asked)), n)
                    found.append(
                        metrics.aurc(scores[i, drawn], right[drawn]) - metrics.aurc(scores[0, drawn], accuracy[0, drawn])
                    )
                low, high = interval(np.array(found))
                whole = metrics.aurc(scores[i], right) - metrics.aurc(scores[0], accuracy[0])
                print(f"; AURC {title} {whole:+.4f} [{low:+.4f}, {high:+.4f}]", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
