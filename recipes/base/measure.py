"""Measures the base bundle through the runtime, on pictures and wordings that nothing was trained or chosen on.

    python -m recipes.base.measure [BUNDLE]      # after recipes.base.questions and recipes.mini.reliability; about 20 minutes

Writes `recipes/base/measured.md`, and the `measured` part of the bundle's manifest. Nothing is chosen here.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np

from edge_vqa import metrics
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Measured, llama_cpp_version
from edge_vqa.device.profile import cores
from edge_vqa.model import load
from edge_vqa.work import questions as files
from recipes.base.questions import OUT
from recipes.mini.measure import cpu, group_of, wilson
from recipes.mini.reliability import OUT as MINI_OUT
from selector_onnx.export import write_manifest

BUNDLE, REPORT, KEPT = Path("models/base/edge_vqa_base"), Path("recipes/base/measured.md"), Path("build/base/said.json")
PHOTOS = ("grocery_test", "clothing_test", "others_test", "everyday_test")
TALK = ("grocery_talk_test", "clothing_talk_test")
MINI = ("easy_test", "photo_test", "things_test", "shapes_test", "writing_test", "absent_test")
MOST = {"grocery_test": 800, "grocery_talk_test": 200, "clothing_talk_test": 200}  # pictures of a test; of the others all
EACH = 4  # questions a picture, what it is and which kind among them
MINI_MOST = 200  # questions of a group of the mini's
GOALS = {
    **{("grocery_test", "what"): 86, ("grocery_test", "which"): 74, ("clothing_test", "what"): 82, ("others_test", "what"): 70},
    **{("everyday_test", "everyday"): 60},
}
# what the mini reaches on the same kinds of questions: recipes/mini/measured.md
MINI_HAS = {
    **{"easy-VQA": 99.8, "photos: what": 79.6, "photos: yes/no": 94.3, "things: what": 97.8, "things: how many": 81.6},
    **{"things: relations": 95.9, "things: yes/no": 93.6, "things: kind, colour, mood": 93.8, "shapes": 96.0, "writing": 86.4},
    **{"unanswerable": 95.9},
}


@dataclass(frozen=True)
class Said:
    """What came of one question of a test, at the default operating point."""

    test: str
    kind: str
    right: bool
    abstained: bool


def asked(test: str) -> list[tuple[files.Question, str]]:
    """The questions of a test with their kinds; of a large one some, drawn with a fixed seed."""
    folder = MINI_OUT if test in MINI else OUT
    kept: dict[str, list[tuple[files.Question, str]]] = {}
    kinds = [json.loads(line)["kind"] for line in (folder / f"{test}.jsonl").read_text().splitlines()]
    both = list(zip(files.read(folder / f"{test}.jsonl", labelled=True), kinds, strict=True))
    if test in MINI:
        for one in Random(test).sample(both, len(both)):
            kept.setdefault(group(one[1]), []).append(one)
        return sorted((one for own in kept.values() for one in own[:MINI_MOST]), key=lambda one: str(one[0].image))
    pictures = sorted({str(question.image) for question, _ in both})
    chosen = set(Random(test).sample(pictures, min(len(pictures), MOST.get(test, len(pictures)))))
    for one in both:
        if str(one[0].image) in chosen:
            kept.setdefault(str(one[0].image), []).append(one)
    if test == "everyday_test":
        return [one for own in kept.values() for one in own]
    first = {image: [one for one in own if one[1] in ("what", "which")] for image, own in kept.items()}
    rest = {image: [one for one in own if one[1] not in ("what", "which")] for image, own in kept.items()}
    rng = Random(test)
    return [
        one
        for image in kept
        for one in (*first[image], *rng.sample(rest[image], min(len(rest[image]), EACH - len(first[image]))))
    ]


def group(kind: str) -> str:
    return "easy-VQA" if kind.startswith("easy-VQA") else group_of(kind)


def ask_all(job: tuple[Path, str, int, int]) -> list[Said]:
    """A share of a test: every `of`-th picture from `first` on."""
    folder, test, first, of = job
    both = asked(test)
    pictures = {image: number for number, image in enumerate(dict.fromkeys(str(question.image) for question, _ in both))}
    said = []
    with load(folder, threads=1) as model:
        for question, kind in both:
            if pictures[str(question.image)] % of == first:
                answer = model.ask(question.image, question.question)
                right = metrics.vqa_accuracy(answer.candidate, question.answers) == 1.0
                said.append(Said(test, group(kind) if test in MINI else kind, right, answer.abstained))
    return said


def answers(folder: Path) -> list[Said]:
    """All tests; kept for as long as the bundle stays as it is."""
    manifest = store.read(folder).manifest
    key = [file.sha256 for file in manifest.files.values()] + [repr(point) for point in manifest.operating_points]
    if KEPT.is_file() and (kept := json.loads(KEPT.read_text()))["key"] == key:
        return [Said(*one) for one in kept["said"]]
    jobs = [(folder, test, first, cores()) for test in (*PHOTOS, *TALK, *MINI) for first in range(cores())]
    said: list[Said] = []
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        for job, own in zip(jobs, pool.map(ask_all, jobs), strict=True):
            said += own
            print(f"{job[1]}: {len(own)} questions, part {job[2] + 1} of {job[3]}", file=sys.stderr, flush=True)
    KEPT.write_text(json.dumps({"key": key, "said": [dataclasses.astuple(one) for one in said]}))
    return said


def share(hits: Iterable[bool]) -> tuple[str, int, float]:
    """A share with its interval, how many, and the share."""
    each = list(hits)
    if not each:
        return "", 0, 0.0
    low, high = wilson(sum(each), len(each))
    return f"{np.mean(each):.1%} ({low:.1%} to {high:.1%})", len(each), float(np.mean(each))


def gated(said: list[Said]) -> str:
    """Answered, and wrong among the answered."""
    given = [one for one in said if not one.abstained]
    return f"{share(not one.abstained for one in said)[0]} | {share(not one.right for one in given)[0]}"


def report(said: list[Said], figures: dict[str, dict[str, float]]) -> tuple[list[str], list[Measured]]:
    today, measured = date.today().isoformat(), []
    lines = [
        "## Photographs",
        "",
        "| test | question | n | right | goal | answered at 5 % | wrong of those |",
        "|---" * 7 + "|",
    ]
    for test in (*PHOTOS, *TALK):
        for kind in sorted(
            {one.kind for one in said if one.test == test}, key=lambda kind: (kind not in ("what", "which"), kind)
        ):
            own = [one for one in said if (one.test, one.kind) == (test, kind)]
            text, n, value = share(one.right for one in own)
            goal = GOALS.get((test, kind))
            lines.append(f"| {test} | {kind} | {n} | {text} | {f'{goal} %' if goal else ''} | {gated(own)} |")
            if goal:
                low, high = wilson(round(value * n), n)
                measured.append(Measured(f"accuracy, {kind}", round(value, 4), test, n, today, round(low, 4), round(high, 4)))
    everything = [one for one in said if one.test in PHOTOS]
    lines += [
        "",
        "All questions over photos together, at the 5 % point: answered | wrong of those",
        "",
        f"{gated(everything)}",
        "",
    ]
    talk = [
        (share(one.right for one in said if one.test == test)[2], share(one.right for one in said if one.test == other)[2])
        for test, other in zip(TALK, PHOTOS, strict=False)
    ]
    lines += [f"As people talk, less plainly worded: {', '.join(f'{100 * (a - b):+.1f} points' for a, b in talk)}.", ""]
    lines += [
        "## What the mini sees",
        "",
        "| questions | n | right | the mini | answered at 5 % | wrong of those |",
        "|---" * 6 + "|",
    ]
    for kind in dict.fromkeys((*MINI_HAS, *sorted({one.kind for one in said if one.test in MINI}))):
        own = [one for one in said if one.test in MINI and one.kind == kind]
        if own:
            text, n, _ = share(one.right for one in own)
            lines.append(f"| {kind} | {n} | {text} | {MINI_HAS.get(kind, '')} | {gated(own)} |")
    lines += ["", "## Speed and memory", "", f"`edge-vqa bench`, {cpu()}, llama-cpp-python {llama_cpp_version()}: medians.", ""]
    names = {
        "cold_start": "cold process",
        "first_question": "one warm question",
        "second_question": "second question",
        "gate": "gate",
    }
    lines += [f"- {text}: {figures[name]['p50']:.3f} s" for name, text in names.items()]
    lines += [f"- peak memory: {figures['peak_memory']['p50']:.0f} MB", ""]
    return lines, measured


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLE
    bundle = store.read(folder)
    bench = [str(Path(sys.executable).with_name("edge-vqa")), "bench", "--model", str(folder), "--json"]
    figures = json.loads(subprocess.run(bench, capture_output=True, text=True, check=True).stdout)["figures"]
    lines, measured = report(answers(folder), figures)
    head = [
        f"Written by `python -m recipes.base.measure` on {date.today().isoformat()}; {bundle.bytes / 1e6:.1f} MB, {folder}."
    ]
    text = "\n".join(
        ["# Measured", "", *head, "Splits and data: the model card (README.md). 95 % intervals (Wilson).", "", *lines]
    )
    REPORT.write_text(text)
    print(text)
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, measured=tuple(measured)))


if __name__ == "__main__":
    main()
