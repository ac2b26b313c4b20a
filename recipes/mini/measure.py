"""Measures what the model card states, through the runtime, on pictures and wordings that nothing was trained or chosen on.

    python -m recipes.mini.measure

Needs `build/mini/questions` (python -m recipes.mini.reliability). Writes `recipes/mini/measured.md` and the `measured` part
of the embedded bundle's manifest. Nothing is chosen here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from converters.convert import convert
from converters.options import Options
from edge_vqa import metrics
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Measured, llama_cpp_version
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import cores
from edge_vqa.model import Model, load
from edge_vqa.trust.confidence import Selector
from edge_vqa.trust.familiarity import where_familiar
from edge_vqa.work import questions as files
from recipes.mini import data
from recipes.mini.questions import GROUPS, MAX_TOKENS
from recipes.mini.reliability import MBQ_CALIBRATION, OUT, STRANGE, TESTS
from selector_onnx import collect
from selector_onnx.export import write_manifest
from selector_onnx.points import Scorer
from selector_onnx.train import better_by

CHECKPOINT = Path("recipes/mini/checkpoint")
REPORT = Path("recipes/mini/measured.md")
# name -> quantisation of the language model, of the vision tower
VARIANTS = {
    "bf16": ("bf16", "f32"),
    "q8_0": ("q8_0", "q8_0"),
    "q4_0": ("q4_0", "q8_0"),
    "hqq q4_1": ("hqq:q4_1", "q8_0"),
    "mbq q4_k_m": ("mbq+rtn:q4_k_m", "q8_0"),
}
SHIPPED = "shipped"
COMPARED = 1000  # questions of a group that all precisions answer
Part = tuple[list[str], list[Measured]]  # lines of the report, figures for the manifest


@dataclasses.dataclass(frozen=True)
class Said:
    """What came of one question of a test."""

    kind: str
    right: bool
    abstained: bool


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def kinds(name: str) -> list[str]:
    return [json.loads(line)["kind"] for line in (OUT / f"{name}.jsonl").read_text().splitlines()]


def group_of(kind: str) -> str:
    return next((group for group, members in GROUPS.items() if kind in members), kind)


def some(test: list[Any], kind: Callable[[Any], str]) -> list[Any]:
    """`COMPARED` questions of every group of `GROUPS`, evenly over the test, in order."""
    totals = Counter(group_of(kind(entry)) for entry in test)
    seen: Counter[str] = Counter()
    chosen = []
    for entry in test:
        group = group_of(kind(entry))
        before, total = seen[group], totals[group]
        seen[group] += 1
        wanted = min(COMPARED, total)
        if (before + 1) * wanted // total > before * wanted // total:
            chosen.append(entry)
    return chosen


def answer_all(model: Model, name: str, *, blind: bool = False, compared: bool = False) -> list[Said]:
    """Every question of a test, or `some`, at the bundle's default operating point. Blind: a black picture is shown."""
    print(f"{name}, {model.bundle.folder.name}{', blind' if blind else ''}", file=sys.stderr, flush=True)
    black, said = np.zeros((data.SIZE, data.SIZE, 3), np.uint8), []
    gated = model.bundle.manifest.selector is not None
    asked = list(zip(files.read(OUT / f"{name}.jsonl", labelled=True), kinds(name), strict=True))
    for question, kind in some(asked, lambda entry: entry[1]) if compared else asked:
        answer = model.ask(black if blind else question.image, question.question, gate=gated)
        right = metrics.vqa_accuracy(answer.candidate, question.answers) == 1.0
        said.append(Said(kind, right, answer.abstained))
    return said


def answers_of(folder: Path, name: str, *, blind: bool = False, compared: bool = False) -> list[Said]:
    with load(folder, threads=1) as model:
        return answer_all(model, name, blind=blind, compared=compared)


def rows(said: list[Said]) -> dict[str, list[Said]]:
    """By kind of question, by the groups of `GROUPS` that have several kinds, and `all`, in that order."""
    found: dict[str, list[Said]] = {}
    for group, members in GROUPS.items():
        own = [s for s in said if s.kind in members]
        if len({s.kind for s in own}) > 1:
            found[f"**{group}**"] = own
        for kind in members:
            if these := [s for s in own if s.kind == kind]:
                found[kind] = these
    for s in said:
        if not any(s.kind in members for members in GROUPS.values()):
            found.setdefault(s.kind, []).append(s)
    return found if len(found) == 1 else found | {"all": said}


def majority(name: str) -> list[Said]:
    """What always giving the commonest answer of each kind would get right."""
    asked = list(zip(files.read(OUT / f"{name}.jsonl"), kinds(name), strict=True))
    answers: dict[str, Counter[str]] = {}
    for question, kind in asked:
        answers.setdefault(kind, Counter())[question.answers[0]] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
    return [Said(kind, question.answers[0] == best[kind], False) for question, kind in asked]


@cache
def variants(shipped: Path) -> dict[str, Path]:
    """The shipped bundle and the same checkpoint in other precisions."""
    folders = {SHIPPED: shipped}
    for name, (quant, vision) in VARIANTS.items():
        folders[name] = data.BUILD / f"mini-{name.replace(' ', '-')}"
        options = Options(quant=quant, vision_type=vision, max_tokens=MAX_TOKENS, force=True, threads=2)
        if quant.startswith("mbq"):
            options = dataclasses.replace(options, calibration=MBQ_CALIBRATION)
        convert(CHECKPOINT, folders[name], options)
    return folders


def share(said: list[Said]) -> float:
    return float(np.mean([s.right for s in said]))


def accuracies(test: str, mini: Bundle) -> Part:
    """The shipped bundle on the whole test; the other precisions, and it beside them, on `some` of it."""
    measured, today, title = [], date.today().isoformat(), TESTS[test]
    folders = variants(mini.folder)
    others = [name for name in folders if name != SHIPPED]
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:  # accuracy only: nothing is timed here
        first = pool.submit(answers_of, mini.folder, test)
        rest = [pool.submit(answers_of, folders[name], test, compared=True) for name in others]
        black = pool.submit(answers_of, mini.folder, test, blind=True, compared=True)
        said, blind = first.result(), rows(black.result())
        compared = {SHIPPED: rows(some(said, lambda s: s.kind))}
        compared |= {name: rows(job.result()) for name, job in zip(others, rest, strict=True)}
    baseline, shipped = rows(majority(test)), rows(said)
    lines = [f"### {title}", "", "| kind | n | shipped | 95 % interval | majority | blind |", "|---" * 6 + "|"]
    for kind, own in shipped.items():
        low, high = wilson(sum(s.right for s in own), len(own))
        cells = (
            len(own),
            f"{share(own):.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{share(baseline[kind]):.3f}",
            f"{share(blind[kind]):.3f}",
        )
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
        if kind.startswith("**") or kind in IN_MANIFEST or len(shipped) == 1:
            name = f"accuracy, {kind.strip('*')}"
            measured.append(Measured(name, round(share(own), 4), title, len(own), today, round(low, 4), round(high, 4)))
    lines += ["", f"Other precisions, on {COMPARED} questions of each group, evenly over the test:", ""]
    lines += [f"| kind | n | {' | '.join(folders)} | shipped / bf16 |", "|---" * (len(folders) + 3) + "|"]
    for kind, own in compared[SHIPPED].items():
        cells = tuple(f"{share(compared[variant][kind]):.4f}" for variant in folders)
        lines.append(f"| {kind} | {len(own)} | {' | '.join(cells)} | {share(own) / share(compared['bf16'][kind]):.3f} |")
    return [*lines, ""], measured


IN_MANIFEST = ("photo what", "what", "count", "unknowable", "easy-VQA: shape", "easy-VQA: colour", "easy-VQA: yes/no")


def strange(mini: Bundle) -> Part:
    """What was never trained on: how much of it is answered at the default operating point, how much of that wrongly."""
    point = next(p for p in mini.manifest.points(Selector.name) if p.default)
    lines = [
        "### Never seen in training",
        "",
        f"At the default operating point ({point.risk:.0%} risk, chosen for the test mix: nothing is promised here).",
        "",
        "| what | n | right if always answering | abstained | wrong among the answered | right or abstained |",
        "|---|---|---|---|---|---|",
    ]
    with load(mini.folder) as model:
        for name, title in STRANGE.items():
            for group, said in groups(answer_all(model, name)).items():
                answered = [s for s in said if not s.abstained]
                good = float(np.mean([s.right or s.abstained for s in said]))
                wrong = f"{1 - share(answered):.3f}" if answered else "-"
                right = f"{share(said):.3f}" if any(s.right for s in said) else "none can be"
                cells = (f"{title}{group}", len(said), right, f"{1 - len(answered) / len(said):.3f}", wrong, f"{good:.3f}")
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""], []


def groups(said: list[Said]) -> dict[str, list[Said]]:
    """By group of `GROUPS` where there are several and few, else all together."""
    found = {f" ({group})": own for group, members in GROUPS.items() if (own := [s for s in said if s.kind in members])}
    return found if 1 < len(found) <= 4 else {"": said}


def reliability(mini: Bundle) -> Part:
    questions = files.read(OUT / "mix_test.jsonl", labelled=True)
    with load(mini.folder) as model:
        traces = collect.collect(model, questions, "recipes/mini test mix")
    scorer = Scorer(mini)
    confidence, familiarity = scorer.confidence(traces), scorer.familiarity(traces)
    right, n, today = traces.accuracy.astype(np.float64), len(traces), date.today().isoformat()
    ours, theirs = metrics.aurc(confidence, right), metrics.aurc(traces.maxprob, right)
    low, high = (-side for side in reversed(better_by(confidence, traces.maxprob, traces, seed=0)))
    lines = [
        "### Test mix",
        "",
        f"{n} questions, one a picture; accuracy when always answering {right.mean():.3f}.",
        "",
        "| confidence | AURC | C@1% | C@5% | C@10% | C@20% | ECE | AUROC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, values in (("MaxProb", traces.maxprob), ("Selector", confidence), ("oracle", right + np.linspace(0, 0.5, n))):
        cover = " | ".join(f"{metrics.coverage_at_risk(values, right, r)[0]:.3f}" for r in (0.01, 0.05, 0.1, 0.2))
        area, error, roc = (measure(values, right) for measure in (metrics.aurc, metrics.ece, metrics.auroc))
        lines.append(f"| {name} | {area:.4f} | {cover} | {error:.3f} | {roc:.3f} |")
    lines += [
        "",
        f"AURC of the Selector minus MaxProb's: {ours - theirs:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} (bootstrap).",
        "",
        "| operating point | threshold | coverage | risk on the test mix | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    measured = [Measured("AURC, Selector", round(ours, 4), "recipes/mini test mix", n, today)]
    measured.append(Measured("AURC, MaxProb", round(theirs, 4), "recipes/mini test mix", n, today))
    for point in mini.manifest.points(Selector.name):
        if point.threshold is None:
            lines.append(f"| {point.risk:.0%} | none passes: abstains always | 0 | - | - |")
            continue
        answered = where_familiar(confidence, familiarity, point.familiarity) >= point.threshold
        wrong = int((1 - right[answered]).sum())
        a, b = wilson(wrong, int(answered.sum()))
        cells = (f"{point.threshold:.4f}", f"{answered.mean():.3f}", f"{wrong / answered.sum():.4f}", f"{a:.4f} to {b:.4f}")
        lines.append(f"| {point.risk:.0%} | {' | '.join(cells)} |")
        measured.append(
            Measured(
                f"risk at the {point.risk:.0%} operating point",
                round(wrong / float(answered.sum()), 4),
                "recipes/mini test mix",
                int(answered.sum()),
                today,
                round(a, 4),
                round(b, 4),
            )
        )
    shown: dict[str, list[bool]] = {}
    default = next(p for p in mini.manifest.points(Selector.name) if p.default)
    for kind, score in zip(kinds("mix_test"), where_familiar(confidence, familiarity, default.familiarity), strict=True):
        shown.setdefault(kind.split()[0] if kind.startswith("degraded") else kind, []).append(
            default.threshold is not None and score >= default.threshold
        )
    lines += ["", f"Share answered at the default point ({default.risk:.0%}), by kind of question:", ""]
    lines += ["| kind | n | answered |", "|---|---|---|"]
    lines += [f"| {kind} | {len(values)} | {np.mean(values):.3f} |" for kind, values in sorted(shown.items())]
    return [*lines, ""], measured


PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def speed(mini: Bundle) -> Part:
    program = str(Path(sys.executable).with_name("edge-vqa"))
    lines = [
        "### Speed and memory",
        "",
        f"{cpu()}, Python {sys.version.split()[0]}, llama-cpp-python {llama_cpp_version()}.",
        "",
    ]
    for name, arguments in (
        ("`edge-vqa --help`", ["--help"]),
        ("`edge-vqa ask`, cold process", ["ask", "examples/cat.jpg", "what is this?"]),
    ):
        times = []
        for _ in range(11):
            began = time.perf_counter()
            subprocess.run([program, *arguments], capture_output=True, check=False)
            times.append(time.perf_counter() - began)
        lines.append(f"- {name}: median {np.median(times):.3f} s, from {min(times):.3f} to {max(times):.3f} (11 runs)")
    # from a small process of its own: a child counts the memory that its parent had when it forked
    asked = [sys.executable, "-S", "-c", PEAK, program, "ask", "examples/cat.jpg", "what is this?"]
    peak = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout) * 1024
    lines.append(f"- peak memory of that process: {peak / 1e6:.0f} MB")
    with load(mini.folder) as model:
        photos = data.load("cifar_test").images
        answers = [model.ask(photos[i], "what is this?") for i in range(200)]
    selector = Selector(mini)
    costs = []
    for answer in answers:
        began = time.perf_counter()
        selector.score(answer.trace)
        costs.append(time.perf_counter() - began)
    totals = [answer.timings.total_s for answer in answers]
    lines.append(f"- a question on a new picture, loaded model: median {np.median(totals) * 1e3:.1f} ms")
    lines.append(f"- gate (features and ONNX): median {np.median(costs) * 1e3:.3f} ms of 200")
    return [*lines, ""], []


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {cores()} cores"
    return "unknown CPU"


def part(name: str, mini: Bundle, measure: Callable[[Bundle], Part], *roles: str) -> Part:
    """A part of the report; kept in the build folder, and measured again only when a file that it depends on changes."""
    kept = data.BUILD / f"measured_{name}.json"
    key = [mini.manifest.files[role].sha256 for role in roles]
    key += [repr(point) for point in mini.manifest.operating_points] if "selector" in roles else []
    if kept.is_file() and (stored := json.loads(kept.read_text()))["key"] == key:
        return stored["lines"], [Measured(**entry) for entry in stored["measured"]]
    lines, measured = measure(mini)
    kept.write_text(json.dumps({"key": key, "lines": lines, "measured": [dataclasses.asdict(m) for m in measured]}))
    return lines, measured


def main() -> None:
    mini = store.read("mini")
    timing, _ = part("speed", mini, speed, "lm", "vision", "selector")  # first, before anything else is in memory
    trusted, more = part("reliability", mini, reliability, "lm", "vision", "selector", "familiarity")
    right, measured = [], []
    for test in TESTS:
        lines, figures = part(f"accuracies_{test}", mini, partial(accuracies, test), "lm", "vision")
        right += lines
        measured += figures
    unseen, _ = part("strange", mini, strange, "lm", "vision", "selector")
    sizes = ", ".join(f"{name} {store.read(folder).bytes / 1e6:.2f} MB" for name, folder in variants(mini.folder).items())
    right += [f"Sizes: {sizes}.", ""]
    text = "\n".join(
        [
            "# Measured",
            "",
            f"Written by `make measure` on {date.today().isoformat()}. Splits and data: see the model card (README.md).",
            "",
            "Every figure comes from llama.cpp. bf16: language model in bf16, vision tower in f32; the other columns: language",
            "model as named, vision tower in Q8_0. Majority: always the commonest answer of the kind. Blind: a black picture,",
            "as many questions as the other precisions get.",
            "",
            *right,
            *trusted,
            *unseen,
            *timing,
        ]
    )
    REPORT.write_text(text)
    print(text)
    write_manifest(mini.folder, dataclasses.replace(mini.manifest, measured=(*measured, *more)))


if __name__ == "__main__":
    main()
