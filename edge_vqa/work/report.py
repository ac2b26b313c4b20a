"""Writes what `edge-vqa eval` found: metrics.json, plots as PNG, and report.html, one file that holds everything.

Without matplotlib the report has no plots. Questions, answers and names in it are untrusted text, and are escaped.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_vqa import metrics, visible
from edge_vqa.border.whole import write_bytes
from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import open_picture
from edge_vqa.trust.intervals import Figure
from edge_vqa.work.evaluation import COSTS, RISKS, Case, Evaluation, Foreign, Judged, oracle

MISTAKES, SIDE = 12, 200  # how many are shown, and their pictures' longer side, pixels
NAMES = {
    "selector": "Selector",
    "selector-early": "early Selector",
    "maxprob": "MaxProb",
    "temperature": "calibrated MaxProb",
}
ROWS = {
    "aurc": ("AURC", "lower is better", 1.0, 4),
    **{f"coverage_at_{risk:g}": (f"C@{risk:.0%}", "% answered", 100.0, 1) for risk in RISKS},
    **{f"phi_{cost}": (f"Φ_{cost}", "effective reliability, %", 100.0, 1) for cost in COSTS},
    "auroc": ("AUROC", "", 1.0, 3),
    "ece": ("ECE", "lower is better", 1.0, 3),
}


@dataclass(frozen=True)
class Subject:
    """What was evaluated, and beside it sets of foreign pictures."""

    model: str
    data: str
    failed: int = 0
    missing: int = 0
    foreign: Sequence[Foreign] = ()


def write(folder: Path, subject: Subject, evaluation: Evaluation, judged: Judged, cases: Sequence[Case]) -> list[Path]:
    """Write the report into a folder that exists; returns the files. Each is written under a temporary name."""
    files = {"metrics.json": as_json(subject, evaluation).encode()}
    drawn = plots(judged) if importlib.util.find_spec("matplotlib") else {}
    files |= drawn
    files["report.html"] = as_html(subject, evaluation, drawn, worst(cases)).encode()
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def worst(cases: Sequence[Case]) -> list[Case]:
    """Wrong answers of the highest confidence; one a picture."""
    found: dict[Path, Case] = {}
    for case in sorted((c for c in cases if c.accuracy == 0), key=lambda c: -c.confidence):
        found.setdefault(case.question.image, case)
    return list(found.values())[:MISTAKES]


def as_json(subject: Subject, evaluation: Evaluation) -> str:
    """Figures as they are; what is not defined is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return visible.as_json(plain(asdict(subject) | asdict(evaluation)), indent=2) + "\n"


def lines(evaluation: Evaluation, foreign: Sequence[Foreign] = ()) -> list[str]:
    """What the terminal says: accuracy, operating points, a table of methods, then foreign sets."""

    def shown(figure: Figure, factor: float, digits: int) -> str:
        return html.unescape(_figure(figure, factor, digits).replace("<small>", "").replace("</small>", ""))

    said = [f"{evaluation.questions:,} questions, accuracy {shown(evaluation.accuracy, 100, 1)} %"]
    for point in evaluation.points:
        risk, coverage = shown(point.risk, 100, 1), shown(point.coverage, 100, 1)
        said.append(f"risk {point.target:<4.0%} answered {coverage} %, wrong of those {risk} %")
    said.append(f"{'':8}" + "".join(f"{NAMES.get(method, method):<26}" for method in evaluation.methods))
    for name, (label, _, factor, digits) in ROWS.items():
        cells = (shown(figures[name], factor, digits) for figures in evaluation.methods.values())
        said.append(f"{label:8}" + "".join(f"{cell:<26}" for cell in cells).rstrip())
    for one in foreign:
        answered, wrong, auroc = shown(one.answered, 100, 1), shown(one.wrong, 100, 1), shown(one.auroc, 1, 3)
        said.append(f"foreign: {one.name}: answered {answered} %, wrong per 100 asked {wrong}, told apart AUROC {auroc}")
    return said


# -- plots --------------------------------------------------------------------------------------------------------------


def plots(judged: Judged) -> dict[str, bytes]:
    """File name -> PNG: risk-coverage curves, reliability diagram, histogram of the confidence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = {}

    def keep(name: str) -> None:
        stream = io.BytesIO()
        plt.savefig(stream, format="png", dpi=110)
        plt.close()
        drawn[name] = stream.getvalue()

    first = next(iter(judged.confidence))
    plt.figure(figsize=(6, 4), layout="constrained")
    for method, confidence in judged.confidence.items():
        coverage, risk, _ = metrics.risk_coverage(confidence, judged.accuracy)
        plt.plot(coverage * 100, risk * 100, label=NAMES.get(method, method))
    coverage, risk, _ = metrics.risk_coverage(oracle(judged.accuracy), judged.accuracy)
    plt.plot(coverage * 100, risk * 100, "--", color="gray", label="best possible")
    plt.xlabel("coverage: % of the questions answered")
    plt.ylabel("risk: % wrong of the answered")
    plt.xlim(0, 100)
    plt.ylim(bottom=0)
    plt.grid(alpha=0.3)
    plt.legend()
    keep("risk_coverage.png")

    plt.figure(figsize=(6, 4), layout="constrained")
    plt.plot((0, 1), (0, 1), "--", color="gray", label="calibrated")
    for method, confidence in judged.confidence.items():
        order = np.argsort(confidence, kind="stable")
        bounds = np.linspace(0, len(order), min(15, len(order)) + 1).round().astype(int)
        bins = [order[i:j] for i, j in pairwise(bounds)]
        x, y = ([values[b].mean() for b in bins] for values in (confidence, judged.accuracy))
        plt.plot(x, y, "o-", label=NAMES.get(method, method))
    plt.xlabel("mean confidence of a fifteenth of the questions")
    plt.ylabel("mean accuracy")
    plt.grid(alpha=0.3)
    plt.legend()
    keep("reliability.png")

    plt.figure(figsize=(6, 4), layout="constrained")
    confidence, right = judged.confidence[first], judged.accuracy >= 0.5
    parts = [confidence[right], confidence[~right]]
    plt.hist(parts, bins=np.linspace(0, 1, 21), stacked=True, label=("right", "wrong"), color=("C0", "C3"))
    plt.xlabel(f"confidence ({NAMES.get(first, first)})")
    plt.ylabel("questions")
    plt.legend()
    keep("confidence.png")
    return drawn


# -- html ---------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --quiet: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
th { text-align: left; } td { font-variant-numeric: tabular-nums; } small, .quiet { color: var(--quiet); }
.plots, .cases { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.plots img { width: 100%; background: white; border-radius: .3rem; }
.cases { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.cases img { max-width: 100%; display: block; } figure { margin: 0; } figcaption { overflow-wrap: anywhere; }
"""


def as_html(subject: Subject, evaluation: Evaluation, drawn: dict[str, bytes], mistakes: Sequence[Case]) -> str:
    """The report, with plots and pictures inside."""
    title = f"{subject.model} on {subject.data}"
    left = {"could not be asked": subject.failed, "left out, their pictures are missing": subject.missing}
    failed = "".join(f"; {count:,} more {why}" for why, count in left.items() if count)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{evaluation.questions:,} questions about {evaluation.pictures:,} pictures{failed}. Always answering,"
        f" {_figure(evaluation.accuracy, 100, 1)} % are right. Intervals are 95 %, by bootstrap over pictures.</p>",
    ]
    if evaluation.points:
        body += ["<h2>Operating points</h2>", _points(evaluation)]
    if subject.foreign:
        body += ["<h2>Foreign pictures</h2>", _foreign(subject.foreign)]
    body += ["<h2>How well confidence tells right from wrong</h2>", _methods(evaluation)]
    if drawn:
        body += ['<div class="plots">', *(f'<img alt="{name}" src="{_png(png)}">' for name, png in drawn.items()), "</div>"]
    else:
        body.append('<p class="quiet">No plots: matplotlib is not installed (pip install "edge-vqa[plots]").</p>')
    if mistakes:
        body += ["<h2>Most confident mistakes</h2>", '<div class="cases">', *map(_case, mistakes), "</div>"]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["<table>", "<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _points(evaluation: Evaluation) -> str:
    rows = []
    for point in evaluation.points:
        threshold = "none: abstains always" if point.threshold is None else f"{point.threshold:.3f}"
        rows.append((f"{point.target:.0%}", threshold, _figure(point.coverage, 100, 1), _figure(point.risk, 100, 1)))
    return _table(("risk promised", "threshold", "coverage, %", "risk, %"), rows)


def _foreign(sets: Sequence[Foreign]) -> str:
    """At the default operating point."""
    rows = []
    for one in sets:
        figures = [(one.answered, 100, 1), (one.wrong, 100, 1), (one.auroc, 1, 3), (one.fpr95, 100, 1)]
        rows.append([html.escape(one.name), f"{one.questions:,}", *(_figure(*figure) for figure in figures)])
    header = ("set", "questions", "answered, %", "wrong per 100 asked", "told apart, AUROC", "pass where 95 % familiar do, %")
    return _table(header, rows)


def _methods(evaluation: Evaluation) -> str:
    methods = evaluation.methods
    header = [
        "",
        *(NAMES.get(method, method) for method in methods),
        *(["difference"] if evaluation.better else []),
        "best possible",
    ]
    rows = []
    for name, (label, note, factor, digits) in ROWS.items():
        cells = [_figure(figures[name], factor, digits) for figures in methods.values()]
        if evaluation.better:
            cells.append(_figure(evaluation.better[name], factor, digits, sign="+"))
        best = f"{evaluation.best[name] * factor:.{digits}f}" if name in evaluation.best else ""
        rows.append([f"{label} <small>{note}</small>", *cells, best])
    return _table(header, rows)


def _figure(figure: Figure, factor: float, digits: int, sign: str = "") -> str:
    if not math.isfinite(figure.value):
        return "–"
    value, low, high = (f"{v * factor:{sign}.{digits}f}" for v in (figure.value, figure.low, figure.high))
    return f"{value} <small>[{low}, {high}]</small>"


def _case(case: Case) -> str:
    asked = case.question
    try:
        image = Image.fromarray(open_picture(asked.image).rgb)
        image.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        shown = f'<img alt="" src="{_png(stream.getvalue())}">'
    except EdgeVqaError:  # gone since it was asked about
        shown = '<span class="quiet">(no picture)</span>'
    said = f"<b>{html.escape(case.candidate)}</b>, not {html.escape(', '.join(dict.fromkeys(asked.answers)))}"
    name = f"<small>{html.escape(asked.question_id)}, confidence {case.confidence:.2f}</small>"
    return f"<figure>{shown}<figcaption>{html.escape(asked.question)}<br>{said}<br>{name}</figcaption></figure>"


def _png(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
