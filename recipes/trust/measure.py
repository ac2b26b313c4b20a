"""What the gates of both bundles make of foreign pictures, and what that costs on familiar ones: docs/trust.md.

    python -m recipes.trust.measure    # after recipes/trust/gate.sh for both bundles; a minute, and what has to be asked

Reads the traces of recipes/trust/collect.sh, and collects those of the bundles' own tests. What was before is the same Selector
with thresholds chosen without familiarity. Nothing is chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from edge_vqa import metrics
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.model import load
from edge_vqa.work import evaluation
from edge_vqa.work import questions as files
from recipes.base.questions import OUT as BASE
from recipes.mini.reliability import OUT as MINI
from recipes.trust import foreign
from recipes.trust.questions import lines_of
from selector_onnx import collect
from selector_onnx.collect import Traces
from selector_onnx.points import Scorer
from selector_onnx.threshold import select_threshold

REPORT, TRACES, BUILDS = Path("docs/trust.md"), Path("build/trust/traces"), Path("build/trust/builds")
BEGIN, END = "<!-- measured: python -m recipes.trust.measure -->", "<!-- end -->"
BUNDLES = {"mini": Path("edge_vqa/bundles/mini"), "base": Path("models/base/edge_vqa_base")}
CALIBRATION = {"mini": Path("build/mini/calibration_traces.npz"), "base": Path("build/base/calibration_traces.npz")}
# tests of a bundle's own questions, and how many of each file, drawn with a fixed seed
OWN = {
    "mini": {
        "own test questions": [(MINI / "mix_test.jsonl", 6000)],
        "corrupted and in conversation": [(MINI / "ood_test.jsonl", 6000)],
    },
    "base": {
        "own test questions": [(BASE / f"{name}_test.jsonl", 400) for name in ("grocery", "clothing", "others")],
        "in conversation": [(BASE / f"{name}_talk_test.jsonl", 300) for name in ("grocery", "clothing")],
    },
}
RISKS = (0.01, 0.05, 0.1)
SETS = (*foreign.WORLDS, *(f"copy_{copy}" for copy in foreign.COPIES), "photos_everyday")


@dataclass(frozen=True)
class Scored:
    """Traces with their scores by the bundle's Selector and familiarity."""

    traces: Traces
    judged: evaluation.Judged


def scored(scorer: Scorer, traces: Traces) -> Scored:
    confidence, familiarity = scorer.confidence(traces), scorer.familiarity(traces)
    assert familiarity is not None
    values = {"selector": confidence.astype(np.float64)}
    accuracy, pictures = traces.accuracy.astype(np.float64), traces.picture.tolist()
    return Scored(traces, evaluation.Judged(accuracy, pictures, values, familiarity.astype(np.float64)))


def own_traces(name: str, bundle: Bundle, test: str) -> Traces:
    """Of some of the questions of the files of a test; collected where they are missing."""
    wanted = {TRACES / name / "own" / f"{path.stem}.npz": (path, most) for path, most in OWN[name][test]}
    missing = [kept for kept in wanted if not kept.is_file()]
    if missing:
        missing[0].parent.mkdir(parents=True, exist_ok=True)
        with load(bundle.folder, confidence="maxprob", threads=1) as model:
            for kept in missing:
                path, most = wanted[kept]
                asked = files.read(path, labelled=True)
                asked = sorted(Random(0).sample(asked, min(most, len(asked))), key=lambda q: str(q.image))
                collect.collect_into(kept, model, asked, path.stem)
    return collect.join(list(map(collect.load, wanted)))


def familiar_only(name: str, traces: Traces) -> Traces:
    """Without pictures of nothing, which count as foreign."""
    if name != "mini":
        return traces
    scene = {line["question_id"]: line["scene"] for line in lines_of(MINI / "mix_test.jsonl")}
    return collect.take(traces, np.array([scene.get(question) != "nothing" for question in traces.question_id]))


def figure(value: evaluation.Figure, factor: float = 100, digits: int = 1) -> str:
    return f"{value.value * factor:.{digits}f} ({value.low * factor:.{digits}f} to {value.high * factor:.{digits}f})"


def before(point: OperatingPoint, calibration: Scored) -> OperatingPoint:
    """The operating point of the same risk without familiarity."""
    confidence = calibration.judged.confidence["selector"]
    threshold = select_threshold(confidence, calibration.judged.accuracy, point.risk, point.delta, calibrated=True)
    return OperatingPoint(point.risk, point.delta, threshold, point.method, point.n, point.data, 0.0)


def foreign_table(name: str, bundle: Bundle, scorer: Scorer, calibration: Scored) -> list[str]:
    point = bundle.manifest.default_point("selector")
    assert point is not None
    without = before(point, calibration)
    familiar = scored(scorer, familiar_only(name, own_traces(name, bundle, "own test questions"))).judged
    rows = ["| set | questions | wrong per 100, before | now | answered, % | told apart, AUROC | pass where 95 % do, % |"]
    rows.append("|---|---|---|---|---|---|---|")
    copies = []
    for one in SETS:
        judged = scored(scorer, collect.load(TRACES / name / f"{one}.npz")).judged
        now = evaluation.foreign(one, judged, familiar, point)
        was = float((judged.answered(without) * (1 - judged.accuracy)).mean())
        if one.startswith("copy_"):
            copies.append(now.auroc.value)
        told = (figure(now.auroc, 1, 3), figure(now.fpr95, 100, 0))
        if (name, one) == ("base", "photos_everyday"):  # which it is made for
            told = ("-", "-")
        cells = (f"{now.questions}", f"{was * 100:.1f}", figure(now.wrong), f"{now.answered.value * 100:.1f}", *told)
        rows.append(f"| {one.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*rows, "", f"Copies told apart, mean AUROC: {np.mean(copies):.3f}."]


def own_table(name: str, bundle: Bundle, scorer: Scorer, calibration: Scored) -> list[str]:
    rows = ["| questions | | 1 % risk: answered, of those wrong | 5 % | 10 % | ECE | refused as unfamiliar |"]
    rows.append("|---|---|---|---|---|---|---|")
    points = [point for point in bundle.manifest.points("selector") if point.risk in RISKS]
    gates = {"before": [before(point, calibration) for point in points], "now": points}
    for test in OWN[name]:
        own = scored(scorer, own_traces(name, bundle, test))
        confidence, familiarity = own.judged.confidence["selector"], own.judged.familiarity
        assert familiarity is not None
        for when, gate in gates.items():
            cells = []
            for point in gate:
                given = own.judged.answered(point)
                wrong = (1 - own.judged.accuracy)[given]
                cells.append(f"{given.mean():.1%}, {wrong.mean():.1%}" if len(wrong) else "none")
            kept = familiarity >= (gate[0].familiarity or 0)
            ece = metrics.ece(confidence[kept], own.judged.accuracy[kept])
            share = "" if gate[0].familiarity is None else f"{1 - kept.mean():.1%}"
            rows.append(f"| {test} ({len(own.traces):,}) | {when} | {' | '.join(cells)} | {ece:.3f} | {share} |")
    return rows


def promise(bundle: Bundle) -> list[str]:
    lines = []
    for point in bundle.manifest.points("selector"):
        if point.threshold is None or point.foreign is None:
            continue
        held = point.foreign
        lines.append(
            f"| {point.risk:.0%} | {point.threshold:.4f} | {point.margin:.4f} | {point.familiarity:.3f} |"
            f" {point.coverage:.1%} | {held.risk:.1%} | {held.data.replace('_', ' ')}, {held.wrong:.1%} |"
        )
    head = "| risk | threshold | of that for other processors | least familiarity | coverage of calibration | with"
    share = next((p.foreign.share for p in bundle.manifest.points("selector") if p.foreign), 0.05)
    return [f"{head} {share:.0%} foreign: at most | worst set, wrong at most |", "|---|---|---|---|---|---|---|", *lines]


def builds_table(name: str, bundle: Bundle, scorer: Scorer) -> list[str]:
    """Confidences of the same questions by build, against the first; decisions at the default point."""
    found = {path.stem: collect.load(path) for path in sorted((BUILDS / name).glob("*.npz"))}
    if len(found) < 2:
        return []
    point = bundle.manifest.default_point("selector")
    assert point is not None
    judged = {build: scored(scorer, traces) for build, traces in found.items()}
    reference = "zen4_repacked" if "zen4_repacked" in judged else next(iter(judged))
    base, rows = judged[reference], []
    given = {build: one.judged.answered(point) for build, one in judged.items()}
    for build, one in sorted(judged.items(), key=lambda item: item[0] != reference):
        away = np.abs(one.judged.confidence["selector"] - base.judged.confidence["selector"])
        worst = max(given, key=lambda other: float((given[build] != given[other]).mean()))
        cells = (
            f"{(one.traces.candidate == base.traces.candidate).mean():.1%}",
            f"{(away <= 0.01).mean():.1%}",
            f"{np.quantile(away, 0.5):.4f}, {np.quantile(away, 0.95):.4f}, {np.quantile(away, 0.999):.4f}",
            f"{(given[build] != given[reference]).mean():.1%}",
            f"{(given[build] != given[worst]).mean():.1%} ({worst.replace('_', ' ')})",
        )
        rows.append(f"| {build.replace('_', ' ')} | {' | '.join(cells)} |")
    n = len(base.traces)
    head = f"| build, {n:,} questions | same answer as the first | confidence within 0.01 | difference: 50, 95, 99.9 %"
    return [f"{head} | decisions that flip | most, against |", "|---|---|---|---|---|---|", *rows]


def main() -> None:
    parts: list[str] = []
    for name, folder in BUNDLES.items():
        bundle = store.read(folder)
        scorer = Scorer(bundle, "selector")
        calibration = scored(scorer, collect.load(CALIBRATION[name]))
        parts += [f"## {name}: what is promised", "", *promise(bundle), ""]
        parts += [f"## {name}: foreign pictures, at the 5 % point", "", *foreign_table(name, bundle, scorer, calibration), ""]
        parts += [f"## {name}: its own questions", "", *own_table(name, bundle, scorer, calibration), ""]
        if rows := builds_table(name, bundle, scorer):
            parts += [f"## {name}: builds of llama.cpp's CPU code", "", *rows, ""]
    text = REPORT.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    REPORT.write_text(text[:start] + "\n\n" + "\n".join(parts) + "\n" + text[end:])
    print(f"{REPORT}: written", flush=True)


if __name__ == "__main__":
    main()
