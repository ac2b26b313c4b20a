"""From a bundle and a few hundred labelled questions to a bundle whose gate is fitted to them: one call, one command.

Collect, split by picture, train, export, choose thresholds, report. Half of the pictures train the Selector; the others, one
question each, choose its thresholds. Where the Selector is not significantly better than the calibrated MaxProb, the latter
is taken; where nothing can be learned, because every answer is right or every one wrong, plain MaxProb.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_vqa import bundle as bundles
from edge_vqa import confidence as methods
from edge_vqa import evaluation, report
from edge_vqa.bundle import Bundle, Manifest, OperatingPoint
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import load
from edge_vqa.questions import Question
from edge_vqa.trace import EARLY
from selector_onnx import collect, exposure
from selector_onnx.export import export, write_manifest
from selector_onnx.points import choose, confidences
from selector_onnx.threshold import questions_needed
from selector_onnx.train import Fit, train

LEAST = 100  # questions


@dataclass(frozen=True)
class Options:
    """risks: to choose operating points for, the first is the default. calibration: share of the pictures that choose
    thresholds. corrupt, swap: shares of the training questions that are added once more, see `exposure`."""

    risks: tuple[float, ...] = (0.05,)
    delta: float = 0.1
    calibration: float = 0.5
    corrupt: float = 0.0
    swap: float = 0.0
    int8: bool = False
    seed: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Fitted:
    """What came of it. method: the confidence method that gates now; why: in words; would_do: about how many labelled
    questions would let a threshold pass, by risk, where none passed: None when more would not help."""

    bundle: Bundle
    method: str
    why: str
    training: int
    exposed: int
    calibration: int
    points: tuple[OperatingPoint, ...]
    would_do: dict[float, int | None]
    report: Path


def split(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and to choose thresholds with: no picture in both, and of the latter one question a picture."""
    rng = np.random.default_rng(seed)
    pictures = sorted({str(question.image) for question in questions})
    held = set(rng.permutation(pictures)[: round(share * len(pictures))].tolist())
    own: dict[str, list[Question]] = {}
    for question in questions:
        if str(question.image) in held:
            own.setdefault(str(question.image), []).append(question)
    calibration = [asked[int(rng.integers(len(asked)))] for asked in own.values()]
    return [question for question in questions if str(question.image) not in held], calibration


def fit(
    bundle: Bundle,
    questions: Sequence[Question],
    output: Path,
    options: Options = Options(),
    *,
    extra: Sequence[Question] = (),
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Fitted:
    """Write a fitted copy of a bundle to `output`, and beside it, in `output`.fit, the traces and a report.

    extra: further questions that only train (rephrased, out of distribution). force: replace `output`. Interrupted, the same
    call goes on with the traces that are there. progress: step, done, total. Raises EdgeVqaError.
    """
    if len(questions) < LEAST:
        raise EdgeVqaError(f"{len(questions)} questions are too few to fit to", f"label at least {LEAST}; 500 work well")
    training, calibration = split(questions, options.calibration, options.seed)
    shown = {question.image for question in calibration}
    extra = [question for question in extra if question.image not in shown]
    work = output.with_name(f"{output.name}.fit")
    copies = exposure.corrupted(training, options.corrupt, work / "exposure", options.seed) if options.corrupt else []
    strangers = exposure.swapped(training, options.swap, options.seed) if options.swap else []
    exposed = [*extra, *copies, *strangers]
    data = output.name
    with bundles.new_folder(output, force=force) as folder:
        made = _copy(bundle, folder, output.name)
        total = len(training) + len(exposed) + len(calibration)

        def collected(asked: Sequence[Question], name: str, before: int) -> collect.Traces:
            kept = work / name
            return collect.collect(model, asked, data, lambda n: progress("collecting", before + n, total), keep=kept)

        with load(folder, confidence="maxprob", threads=options.threads) as model:
            learned = collected([*training, *exposed], "training", 0)
            judged = collected(calibration, "calibration", len(training) + len(exposed))
        if copies:  # a copy belongs to its original's fold
            originals = {q.question_id: str(q.image) for q in training}
            pictures = [
                originals.get(str(i).rsplit(" ", 2)[0], p) if str(p).startswith(str(work)) else p
                for i, p in zip(learned.question_id, learned.picture, strict=True)
            ]
            learned = dataclasses.replace(learned, picture=np.array(pictures))
        fitted, why = _train(learned, options.seed, progress)
        if fitted and fitted.selector_pays:
            export(fitted.trained, made, int8=options.int8)
            early = train(learned, inputs=EARLY, seed=options.seed, progress=_step("training the early Selector", progress))
            export(early.trained, bundles.read(folder), int8=options.int8)
        elif fitted:
            write_manifest(folder, dataclasses.replace(made.manifest, temperature=fitted.temperature))
        method = _choose_points(folder, judged, options)
        final = bundles.read(folder)
        points = tuple(point for point in final.manifest.operating_points if point.confidence == method)
        would_do = {point.risk: _needed(final, judged, point.risk, options) for point in points if point.threshold is None}
        files = _report(final, method, judged, calibration, work, progress)
    return Fitted(
        bundle=bundles.read(output),
        method=method,
        why=why,
        training=len(training),
        exposed=len(exposed),
        calibration=len(calibration),
        points=points,
        would_do=would_do,
        report=files[-1],
    )


def _copy(bundle: Bundle, folder: Path, name: str) -> Bundle:
    """The bundle's LM and vision tower, linked where the disk allows it, with a manifest that knows no confidence."""
    manifest = bundle.manifest
    kept = {role: file for role, file in manifest.files.items() if role not in manifest.selectors}
    for role, file in kept.items():
        try:
            os.link(bundle.files[role], folder / file.path)
        except OSError:
            shutil.copyfile(bundle.files[role], folder / file.path)
    bare: Manifest = dataclasses.replace(
        manifest,
        name=name,
        files=kept,
        selector=None,
        selector_early=None,
        temperature=None,
        operating_points=(),
        calibration=(),
        measured=tuple(m for m in manifest.measured if m.metric.startswith("accuracy")),
    )
    write_manifest(folder, bare)
    return bundles.read(folder)


def _step(name: str, progress: Callable[[str, int, int], None]) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _train(learned: collect.Traces, seed: int, progress: Callable[[str, int, int], None]) -> tuple[Fit | None, str]:
    """The fit, or None where nothing can be learned; and which method gates, and why, in words."""
    if float(learned.accuracy.min()) == float(learned.accuracy.max()):
        all_ = "right" if learned.accuracy[0] else "wrong"
        return None, f"MaxProb: every training answer is {all_}, so that nothing tells right from wrong"
    fitted = train(learned, seed=seed, progress=_step("training", progress))
    ours, theirs = fitted.aurc
    low, high = fitted.better
    figures = f"AURC out of fold {ours:.4f}, of the calibrated MaxProb {theirs:.4f}; difference {theirs - ours:+.4f}"
    figures += f" [{low:+.4f}, {high:+.4f}]"
    if fitted.selector_pays:
        return fitted, f"Selector ({fitted.chosen}): {figures}"
    return fitted, f"calibrated MaxProb: the Selector is not significantly better ({figures})"


def _choose_points(folder: Path, judged: collect.Traces, options: Options) -> str:
    """Write operating points for the method that gates, and for the early Selector; the name of the former."""
    name = methods.choose(bundles.read(folder)).name
    for method in (name, methods.SelectorEarly.name):
        found = bundles.read(folder)
        if method == name or methods.SelectorEarly.role in found.manifest.selectors:
            manifest = choose(found, judged, options.risks, options.delta, options.risks[0], method=method)
            write_manifest(folder, manifest)
    return name


def _needed(bundle: Bundle, judged: collect.Traces, risk: float, options: Options) -> int | None:
    """Labelled questions in all, of which only a share chooses thresholds."""
    method, confidence = confidences(bundle, judged)
    enough = questions_needed(confidence, judged.accuracy, risk, options.delta, calibrated=method.calibrated)
    return None if enough is None else round(enough / options.calibration)


def _report(
    bundle: Bundle,
    method: str,
    judged: collect.Traces,
    asked: Sequence[Question],
    work: Path,
    progress: Callable[[str, int, int], None],
) -> list[Path]:
    """The calibration questions, which did not train, as `edge-vqa eval` reports them; without the points chosen on them."""
    _, confidence = confidences(bundle, judged, method)
    values = {method: confidence.astype(np.float64)}
    if method != "maxprob":
        values["maxprob"] = judged.maxprob.astype(np.float64)
    accuracy = judged.accuracy.astype(np.float64)
    answers = evaluation.Judged(accuracy=accuracy, pictures=judged.picture.tolist(), confidence=values)
    cases = [
        evaluation.Case(question, str(candidate), float(c), float(a))
        for question, candidate, c, a in zip(asked, judged.candidate, confidence, accuracy, strict=True)
    ]
    found = evaluation.evaluate(answers, progress=_step("intervals", progress))
    return report.write(work, report.Subject(bundle.name, "calibration questions"), found, answers, cases)
