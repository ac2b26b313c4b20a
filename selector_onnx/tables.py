"""A study as Markdown tables and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from edge_vqa.trust.intervals import Figure
from edge_vqa.work.evaluation import RISKS
from selector_onnx.study import BASELINE_SELECTOR, MAXPROB, SELECTOR, TEMPERATURE, Cell, Study
from selector_onnx.study_config import Mix

NAMES = {
    MAXPROB: "MaxProb",
    TEMPERATURE: "temperature",
    BASELINE_SELECTOR: "Selector of {baseline}",
    SELECTOR: "Selector",
}
# figure -> heading, factor, digits
FIGURES = {
    "accuracy": ("Accuracy, %", 100.0, 1),
    **{f"coverage_at_{risk:g}": (f"C@{risk:.0%}, %", 100.0, 1) for risk in RISKS},
    "aurc": ("AURC", 1.0, 4),
    "ece": ("ECE", 1.0, 3),
    "auroc": ("AUROC", 1.0, 3),
    "phi_10": ("Effective reliability at cost 10, %", 100.0, 1),
}


def markdown(study: Study) -> str:
    """All tables."""
    parts = [
        f"# Study: {study.config.name}",
        f"{_counted(study)} questions in each mix (ID;OOD, per cent). Brackets: 95 % interval over pictures; differences are"
        " paired.",
        *_headline(study),
        *_quantisation(study),
        *(_grid(study, name) for name in FIGURES),
        *_small(study),
    ]
    return "\n\n".join(parts) + "\n"


def _counted(study: Study) -> str:
    """How many questions mixes have, in as few words as that takes."""
    counts = {mix.ood: n for mix, n in study.questions.items()}
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,}"
    return ", ".join(f"{n:,} ({name or 'ID'})" for name, n in counts.items())


def as_json(study: Study) -> str:
    """Every figure of every cell."""
    rows = [
        {
            "bundle": folder,
            "confidence": confidence,
            "ood": mix.ood,
            "ood_percent": mix.percent,
            "questions": study.questions[mix],
        }
        | {name: _plain(cell.figure(name)) for name in cell.values}
        for (folder, confidence, mix), cell in study.cells.items()
    ]
    return json.dumps({"study": study.config.name, "cells": rows}, indent=1) + "\n"


def _plain(figure: Figure) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in vars(figure).items()}


def shown(figure: Figure, factor: float, digits: int, *, sign: bool = False) -> str:
    def number(value: float) -> str:
        return f"{value * factor:{'+' if sign else ''}.{digits}f}" if math.isfinite(value) else "-"

    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _headline(study: Study) -> list[str]:
    """The main bundle with its Selector against the baseline with MaxProb."""
    config = study.config
    label = {entry.folder: entry.label for entry in config.bundle}
    rows = []
    for name in ("coverage_at_0.05", "coverage_at_0.1", "coverage_at_0.2", "aurc"):
        heading, factor, digits = FIGURES[name]
        cells = [
            study.cells[config.main, SELECTOR, mix].minus(study.cells[config.baseline, MAXPROB, mix], name)
            for mix in config.measured
        ]
        rows.append([heading, *(shown(cell, factor, digits, sign=True) for cell in cells)])
    return [
        f"## {label[config.main]} with its Selector, minus {label[config.baseline]} with MaxProb",
        table(["", *map(str, config.measured)], rows),
    ]


def _quantisation(study: Study) -> list[str]:
    """What each bundle loses to the baseline, without a Selector."""
    config = study.config
    ends = config.ends
    header = ["bundle", *(f"{heading}, {mix!s}" for heading in ("accuracy, points", "ECE", "AURC") for mix in ends)]
    rows = []
    for entry in config.bundle:
        if entry.folder == config.baseline:
            continue
        cells = []
        for name, factor, digits in (("accuracy", 100.0, 1), ("ece", 1.0, 3), ("aurc", 1.0, 4)):
            for mix in ends:
                own, base = (study.cells[folder, MAXPROB, mix] for folder in (entry.folder, config.baseline))
                cells.append(shown(own.minus(base, name), factor, digits, sign=True))
        rows.append([entry.label, *cells])
    return ["## What quantisation costs: MaxProb, minus the baseline's", table(header, rows)]


def _grid(study: Study, name: str) -> str:
    heading, factor, digits = FIGURES[name]
    config, rows = study.config, []
    baseline = next(entry.label for entry in config.bundle if entry.folder == config.baseline)
    for entry in config.bundle:
        for confidence, title in NAMES.items():
            cells = [study.cells.get((entry.folder, confidence, mix)) for mix in config.measured]
            if cells[0] is None or (name == "accuracy" and confidence != MAXPROB):
                continue
            figures = [shown(cell.figure(name), factor, digits) for cell in cells if cell]
            rows.append([entry.label, "" if name == "accuracy" else title.format(baseline=baseline), *figures])
    return f"## {heading}\n\n" + table(["bundle", "confidence", *map(str, config.measured)], rows)


def _small(study: Study) -> list[str]:
    config = study.config
    ends = config.ends
    names = ("aurc", "coverage_at_0.05", "coverage_at_0.1", "ece")
    header = ["", *(f"{FIGURES[name][0]}, {mix!s}" for mix in ends for name in names)]
    main = next(entry.label for entry in config.bundle if entry.folder == config.main)

    def rows(cells: dict[tuple[str, Mix], Cell]) -> list[list[str]]:
        found = []
        for title in dict.fromkeys(title for title, _ in cells):
            figures = [shown(cells[title, mix].figure(name), *FIGURES[name][1:]) for mix in ends for name in names]
            found.append([title, *figures])
        return found

    parts = []
    for heading, cells in (
        (f"Confidence methods, {main}", study.methods),
        (f"Ablation of the Selector's features, {main}", study.ablation),
        (f"Selector trained with and without exposure to OOD questions, {main}", study.exposure),
    ):
        if cells:
            parts += [f"## {heading}", table(header, rows(cells))]
    if study.points:
        points: dict[float, list[Any]] = {}
        for point in study.points:
            points.setdefault(point.target, []).append(point)
        listed = []
        for target, own in points.items():
            limit = "none passes" if own[0].threshold is None else f"{own[0].threshold:.3f}"
            cells_ = ["-" if p.threshold is None else f"{p.risk:.1%} wrong of {p.coverage:.1%}" for p in own]
            listed.append([f"{target:.0%}", limit, *cells_])
        parts += [
            f"## Operating points of {main}, chosen on ID calibration questions (delta {config.delta:g})",
            table(["risk", "threshold", *map(str, config.measured)], listed),
        ]
    if study.foreign:
        rows_ = [
            [one.name, f"{one.questions:,}", shown(one.answered, 100, 1), shown(one.wrong, 100, 1), shown(one.auroc, 1, 3)]
            for one in study.foreign
        ]
        parts += [
            f"## Foreign pictures, {main}, at 5 % risk",
            table(["set", "questions", "answered, %", "wrong per 100 asked", "told apart, AUROC"], rows_),
        ]
    return parts
