"""How reliable a bundle's answers are on a labelled file of questions: every figure of `edge-vqa eval`, with its interval.

Intervals are 95 %, by bootstrap over pictures, because questions on one picture fail together. Phi_c needs a threshold that
was not chosen on the questions it is measured on: pictures are halved at random, each half takes the other's best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa import metrics
from edge_vqa.bundles.manifest import OperatingPoint
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust.familiarity import where_familiar
from edge_vqa.trust.intervals import SEED, Figure, draws, interval
from edge_vqa.work.questions import Question

Floats: TypeAlias = "npt.NDArray[np.float64]"
RISKS = (0.01, 0.05, 0.1, 0.2)
COSTS = (1, 10, 100)
DRAWS, MANY, FEW_DRAWS = 1000, 20_000, 200  # fewer draws for more than MANY questions


@dataclass(frozen=True, eq=False)
class Judged:
    """n answers: VQA accuracy [n], the picture of each [n], confidence [n] by method, the gate's own method first, and how
    familiar each picture is [n], where the bundle has an estimate of that."""

    accuracy: Floats
    pictures: Sequence[str]
    confidence: Mapping[str, Floats]
    familiarity: Floats | None = None

    def answered(self, point: OperatingPoint) -> npt.NDArray[np.bool_]:
        """Which are given [n] at an operating point of the gate's own method."""
        if point.threshold is None:
            return np.zeros(len(self.accuracy), bool)
        confidence = next(iter(self.confidence.values()))
        return where_familiar(confidence, self.familiarity, point.familiarity) >= point.threshold


@dataclass(frozen=True)
class Case:
    """One question with what was said."""

    question: Question
    candidate: str
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class AtPoint:
    """What an operating point does here. `risk` is nan when nothing is answered."""

    target: float
    threshold: float | None
    coverage: Figure
    risk: Figure


@dataclass(frozen=True)
class Evaluation:
    """accuracy: when always answering. methods: figures by method and name; `best`: those of an oracle. better: how much
    higher each figure of the first method is than MaxProb's, on the same draws; empty without another method than MaxProb."""

    questions: int
    pictures: int
    accuracy: Figure
    methods: Mapping[str, Mapping[str, Figure]]
    best: Mapping[str, float]
    better: Mapping[str, Figure]
    points: Sequence[AtPoint]


def judge(questions: Sequence[Question], answers: Path) -> tuple[Judged, list[Case]]:
    """What `batch.run` wrote about labelled questions, always answering; failed questions are left out.

    Raises EdgeVqaError when all failed.
    """
    cases, methods = [], {}
    maxprob: list[float] = []
    familiarity: list[float | None] = []
    for question, line in zip(questions, map(json.loads, answers.read_bytes().splitlines()), strict=True):
        if "error" in line:
            continue
        accuracy = metrics.vqa_accuracy(line["candidate"], question.answers)
        cases.append(Case(question, line["candidate"], line["confidence"], accuracy))
        maxprob.append(line["maxprob"])
        familiarity.append(line.get("familiarity"))
        methods[line["confidence_method"]] = True
    if not cases:
        raise EdgeVqaError("not one question could be asked", f"{answers} says why")
    (method,) = methods  # the file belongs to one bundle
    confidence = {method: np.array([case.confidence for case in cases])}
    judged = Judged(
        accuracy=np.array([case.accuracy for case in cases]),
        pictures=[str(case.question.image) for case in cases],
        confidence=confidence | ({} if method == "maxprob" else {"maxprob": np.array(maxprob)}),
        familiarity=None if None in familiarity else np.array(familiarity, np.float64),
    )
    return judged, cases


@dataclass(frozen=True)
class Foreign:
    """What the gate makes of a set of foreign pictures, at the default operating point. answered: share of the questions;
    wrong: of all questions, those answered wrongly; auroc: how well its pictures are told from familiar ones by their
    familiarity; fpr95: how many pass for familiar where 95 % of the familiar do. The latter are nan without familiarity."""

    name: str
    questions: int
    answered: Figure
    wrong: Figure
    auroc: Figure
    fpr95: Figure


def foreign(name: str, judged: Judged, familiar: Judged, point: OperatingPoint | None) -> Foreign:
    """A set against familiar questions. point: None where the bundle has none: then everything is answered."""
    given = np.ones(len(judged.accuracy)) if point is None else judged.answered(point) * 1.0
    wrong = given * (1 - judged.accuracy)
    ours, theirs = _one_a_picture(judged), _one_a_picture(familiar)

    def told(ours: Floats, theirs: Floats) -> tuple[float, float]:
        if not len(ours) or not len(theirs):
            return math.nan, math.nan
        auroc = metrics.auroc(np.concatenate([theirs, ours]), np.repeat([1.0, 0.0], [len(theirs), len(ours)]))
        return auroc, float((ours >= np.quantile(theirs, 0.05)).mean())

    rng = np.random.default_rng(SEED)
    shares = np.array(
        [(np.average(given, weights=t), np.average(wrong, weights=t)) for t in draws(judged.pictures, DRAWS, rng)]
    )
    apart = np.array([told(rng.choice(ours, len(ours)), rng.choice(theirs, len(theirs))) for _ in range(FEW_DRAWS)])
    auroc, fpr95 = told(ours, theirs)
    return Foreign(
        name=name,
        questions=len(given),
        answered=Figure(float(given.mean()), *interval(shares[:, 0])),
        wrong=Figure(float(wrong.mean()), *interval(shares[:, 1])),
        auroc=Figure(auroc, *interval(apart[:, 0])),
        fpr95=Figure(fpr95, *interval(apart[:, 1])),
    )


def _one_a_picture(judged: Judged) -> Floats:
    """Familiarity of each picture; empty without an estimate of it."""
    if judged.familiarity is None:
        return np.zeros(0)
    _, first = np.unique(np.asarray(judged.pictures), return_index=True)
    return judged.familiarity[first]


def evaluate(
    judged: Judged, points: Sequence[OperatingPoint] = (), progress: Callable[[int, int], None] = lambda done, total: None
) -> Evaluation:
    """All figures. points: the bundle's operating points; those of other methods than the first are left out."""
    accuracy, n = judged.accuracy, len(judged.accuracy)
    _, picture = np.unique(np.asarray(judged.pictures), return_inverse=True)
    pictures = int(picture.max()) + 1
    rng = np.random.default_rng(SEED)
    half = rng.permutation(pictures)[picture] % 2
    gains = {method: phi(c, accuracy, half) for method, c in judged.confidence.items()}
    first = next(iter(judged.confidence))
    points = [point for point in points if point.confidence == first]
    given = [judged.answered(point) * 1.0 for point in points]

    def every(times: npt.NDArray[np.int64] | None) -> dict[tuple[str, str], float]:
        """Every figure when question i counts times[i] times."""
        found: dict[tuple[str, str], float] = {("", "accuracy"): float(np.average(accuracy, weights=times))}
        for method, confidence in judged.confidence.items():
            order = orders[method]
            kept = order if times is None else np.repeat(order, times[order])
            c, a = confidence[kept], accuracy[kept]  # sorted, so that sorting them again is quick
            for name, value in figures(c, a).items():
                found[method, name] = value
            for cost, values in gains[method].items():
                found[method, f"phi_{cost}"] = float(np.average(values, weights=times))
        for number in range(len(points)):
            weights = given[number] if times is None else given[number] * times
            total = n if times is None else int(times.sum())
            found[str(number), "coverage"] = float(weights.sum() / total)
            found[str(number), "risk"] = float(weights @ (1 - accuracy) / weights.sum()) if weights.any() else math.nan
        return found

    orders = {method: np.argsort(-c, kind="stable") for method, c in judged.confidence.items()}
    values = every(None)
    rounds = DRAWS if n <= MANY else FEW_DRAWS
    drawn: dict[tuple[str, str], list[float]] = {key: [] for key in values}
    for number, times in enumerate(draws(judged.pictures, rounds, rng), 1):
        for key, value in every(times).items():
            drawn[key].append(value)
        progress(number, rounds)

    def figure(key: tuple[str, str]) -> Figure:
        return Figure(values[key], *interval(np.array(drawn[key])))

    names = [name for method, name in values if method == first]
    return Evaluation(
        questions=n,
        pictures=pictures,
        accuracy=figure(("", "accuracy")),
        methods={method: {name: figure((method, name)) for name in names} for method in judged.confidence},
        best=_best(accuracy),
        better=_better(first, names, values, drawn) if first != "maxprob" else {},
        points=[
            AtPoint(point.risk, point.threshold, figure((str(i), "coverage")), figure((str(i), "risk")))
            for i, point in enumerate(points)
        ],
    )


def _better(
    first: str, names: Sequence[str], values: Mapping[tuple[str, str], float], drawn: Mapping[tuple[str, str], Sequence[float]]
) -> dict[str, Figure]:
    """How much higher each figure of a method is than MaxProb's, on the same draws."""
    found = {}
    for name in names:
        mine, theirs = (first, name), ("maxprob", name)
        differences = np.array(drawn[mine]) - np.array(drawn[theirs])
        found[name] = Figure(values[mine] - values[theirs], *interval(differences))
    return found


def figures(confidence: Floats, accuracy: Floats) -> dict[str, float]:
    """AURC, C@R for every risk of `RISKS`, AUROC and ECE by name. Sorts once: 1 million answers take about half a second."""
    order = np.argsort(-confidence, kind="stable")
    confidence, accuracy = confidence[order], accuracy[order]  # sorting what is sorted costs nearly nothing
    found = {"aurc": metrics.aurc(confidence, accuracy)}
    found |= {f"coverage_at_{risk:g}": metrics.coverage_at_risk(confidence, accuracy, risk)[0] for risk in RISKS}
    return found | {"auroc": metrics.auroc(confidence, accuracy), "ece": metrics.ece(confidence, accuracy)}


def oracle(accuracy: Floats) -> Floats:
    """A confidence [n] that knows: the better the answer, the higher; all values differ, so that coverage can end anywhere."""
    ranks = np.empty(len(accuracy))
    ranks[np.argsort(accuracy, kind="stable")] = np.linspace(0, 1, len(accuracy))
    return ranks


def _best(accuracy: Floats) -> dict[str, float]:
    """The best that any confidence reaches, where that means something."""
    found = {name: value for name, value in figures(oracle(accuracy), accuracy).items() if name not in ("auroc", "ece")}
    return found | {f"phi_{cost}": float(accuracy.mean()) for cost in COSTS}


def phi(confidence: Floats, accuracy: Floats, half: npt.NDArray[np.int64]) -> dict[int, Floats]:
    """By cost: what each question contributes to Phi_c [n], at the threshold that is best for the other half's pictures."""
    found = {}
    for cost in COSTS:
        threshold = np.full(2, math.inf)
        for own in (0, 1):
            other = half != own
            if other.any():
                threshold[own] = metrics.best_threshold(confidence[other], accuracy[other], cost)
        answered = confidence >= threshold[half]
        found[cost] = np.where(answered, np.where(accuracy > 0, accuracy, -float(cost)), 0.0)
    return found
