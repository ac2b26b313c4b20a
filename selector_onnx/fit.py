"""From a bundle and a few hundred labelled questions to a bundle whose gate is fitted to them: one call, one command.

Collect, split by picture, train, export, choose thresholds, report. Half of the pictures train the Selector; the others, one
question each, choose its thresholds. A Selector that the bundle has already stays where neither the new one nor the calibrated
MaxProb is significantly better. Without one, the calibrated MaxProb is taken where the new Selector is not significantly
better; where nothing can be learned, because every answer is right or every one wrong, what is there stays, or plain MaxProb.

How familiar a picture is, is learned from the training pictures against drawn and spoiled ones (`strange`), and against the
user's own foreign ones where there are some.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Manifest, OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import aurc
from edge_vqa.model import load
from edge_vqa.trust import confidence as methods
from edge_vqa.trust.trace import EARLY
from edge_vqa.work import evaluation, report
from edge_vqa.work.questions import Question
from selector_onnx import collect, exposure, familiarity
from selector_onnx import strange as strange_pictures
from selector_onnx.export import export, export_familiarity, write_manifest
from selector_onnx.points import UNFAMILIAR, Limits, choose, confidences
from selector_onnx.threshold import questions_needed
from selector_onnx.train import Fit, better_by, train

Progress = Callable[[str, int, int], None]  # step, done, total

LEAST = 100  # questions
STRANGE = 200  # pictures drawn from nothing, and as many spoiled ones
KEPT = "the bundle's own Selector"


@dataclass(frozen=True)
class Options:
    """risks: to choose operating points for, the first is the default. calibration: share of the pictures that choose
    thresholds. corrupt, swap: shares of the training questions that are added once more, see `exposure`. unfamiliar: share of
    familiar pictures that may be refused as foreign."""

    risks: tuple[float, ...] = (0.05,)
    delta: float = 0.1
    calibration: float = 0.5
    corrupt: float = 0.0
    swap: float = 0.0
    int8: bool = False
    seed: int = 0
    threads: int | None = None
    unfamiliar: float = UNFAMILIAR


@dataclass(frozen=True)
class Fitted:
    """What came of it. method: the confidence method that gates now; why: in words; familiarity: what it was learned from, in
    words, or why it was not; would_do: about how many labelled questions would let a threshold pass, by risk, where none
    passed: None when more would not help."""

    bundle: Bundle
    method: str
    why: str
    familiarity: str
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
    foreign: Sequence[Path] = (),
    force: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Fitted:
    """Write a fitted copy of a bundle to `output`, and beside it, in `output`.fit, the traces and a report.

    extra: further questions that only train (rephrased, out of distribution). foreign: pictures that will not be asked about.
    force: replace `output`. Interrupted, the same call goes on with the traces that are there. progress: step, done, total.
    Raises EdgeVqaError.
    """
    if len(questions) < LEAST:
        raise EdgeVqaError(f"{len(questions)} questions are too few to fit to", f"label {LEAST} or more, better 1,000")
    training, calibration = split(questions, options.calibration, options.seed)
    shown = {question.image for question in calibration}
    extra = [question for question in extra if question.image not in shown]
    data, work = output.name, output.with_name(f"{output.name}.fit")
    copies = exposure.corrupted(training, options.corrupt, work / "exposure", options.seed) if options.corrupt else []
    strangers = exposure.swapped(training, options.swap, options.seed) if options.swap else []
    exposed = [*extra, *(copy for copy, _ in copies), *strangers]
    pictures = sorted({question.image for question in training})
    strange = _strange(pictures, foreign, work, options.seed) if len(pictures) >= familiarity.LEAST else {}
    with store.new_folder(output, force=force) as folder:
        sets = {"training": [*training, *exposed], "calibration": calibration, **strange}
        traces = _collected(bundle, sets, data, work, options, progress)
        learned, judged = _with_originals(traces["training"], copies), traces["calibration"]
        fitted, method, why = _choose_method(bundle, learned, options.seed, progress)
        made = _copy(bundle, folder, manifests.name_for(output), selectors=method == KEPT)
        others = [traces[name] for name in strange]
        known = _familiar(collect.take(learned, np.arange(len(training))), others, made, options, progress)
        made = store.read(folder)
        if method == methods.Selector.name and fitted:
            _export_both(fitted, learned, made, options, progress)
        elif method == methods.TemperatureScaling.name and fitted:
            write_manifest(folder, dataclasses.replace(made.manifest, temperature=fitted.temperature))
        method = _choose_points(folder, judged, options)
        final = store.read(folder)
        gate, confidence = confidences(final, judged)
        points = tuple(final.manifest.points(method))
        would_do = {p.risk: _needed(gate, confidence, judged, p.risk, options) for p in points if p.threshold is None}
        files = _report(final.name, method, confidence, judged, calibration, work, progress)
    return Fitted(
        bundle=store.read(output),
        method=method,
        why=why,
        familiarity=known,
        training=len(training),
        exposed=len(exposed),
        calibration=len(calibration),
        points=points,
        would_do=would_do,
        report=files[-1],
    )


def _strange(own: Sequence[Path], foreign: Sequence[Path], work: Path, seed: int) -> dict[str, list[Question]]:
    """By sort, questions about pictures that will not be asked about."""
    found = {
        "drawn": strange_pictures.drawn(STRANGE, work / "drawn", seed),
        "spoiled": strange_pictures.spoiled(STRANGE, own, work / "spoiled", seed),
    }
    if foreign:
        found["foreign"] = strange_pictures.about(foreign, seed)
    return {f"strange_{sort}": asked for sort, asked in found.items()}


def _collected(
    bundle: Bundle, sets: dict[str, list[Question]], data: str, work: Path, options: Options, progress: Progress
) -> dict[str, collect.Traces]:
    """Traces of every set, kept in `work` until all is done."""
    found, done, total = {}, 0, sum(map(len, sets.values()))
    with load(bundle.folder, confidence="maxprob", vision=bundle.backend, threads=options.threads) as model:
        for name, asked in sets.items():

            def said(n: int, before: int = done) -> None:
                progress("collecting", before + n, total)

            found[name] = collect.collect(model, asked, data, said, keep=work / name)
            done += len(asked)
    return found


def _with_originals(traces: collect.Traces, copies: Sequence[tuple[Question, Question]]) -> collect.Traces:
    """A copy belongs to its original's fold."""
    of = {str(copy.image): str(original.image) for copy, original in copies}
    return dataclasses.replace(traces, picture=np.array([of.get(picture, picture) for picture in traces.picture.tolist()]))


def _familiar(own: collect.Traces, others: Sequence[collect.Traces], made: Bundle, options: Options, progress: Progress) -> str:
    """Learn familiarity and put it into the bundle; what came of it, in words."""
    progress("learning what is familiar", 0, 1)
    try:
        learned = familiarity.learn(own, others, seed=options.seed)
    except EdgeVqaError as error:  # too few pictures: the rest of the gate does without
        return f"not judged: {error}"
    export_familiarity(learned, made, int8=options.int8)
    return f"learned from {learned.n} pictures and {learned.foreign} foreign ones"


def _export_both(fitted: Fit, learned: collect.Traces, made: Bundle, options: Options, progress: Progress) -> None:
    """The Selector, and one that decides after the first token."""
    export(fitted.trained, made, int8=options.int8)
    early = train(learned, inputs=EARLY, seed=options.seed, progress=_step("training the early Selector", progress))
    export(early.trained, store.read(made.folder), int8=options.int8)


def _copy(bundle: Bundle, folder: Path, name: str, *, selectors: bool) -> Bundle:
    """The bundle's LM and vision tower, linked where the disk allows it, with or without its Selectors; no familiarity, and no
    points."""
    manifest = bundle.manifest
    kept_roles = {"selector", "selector_early"} if selectors else set()
    dropped = manifest.estimators.keys() - kept_roles
    kept = {role: file for role, file in manifest.files.items() if role not in dropped}
    for role, file in kept.items():
        try:
            os.link(bundle.files[role], folder / file.path)
        except OSError:
            shutil.copyfile(bundle.files[role], folder / file.path)
    gone: dict[str, Any] = dict.fromkeys(dropped)
    bare: Manifest = dataclasses.replace(
        manifest,
        **gone,
        name=name,
        files=kept,
        temperature=None,
        operating_points=(),
        calibration=(),
        measured=tuple(m for m in manifest.measured if m.metric.startswith("accuracy")),
    )
    write_manifest(folder, bare)
    return store.read(folder)


def _step(name: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _choose_method(bundle: Bundle, learned: collect.Traces, seed: int, progress: Progress) -> tuple[Fit | None, str, str]:
    """The fit, or None where nothing can be learned; the method that will gate, or KEPT; and why, in words."""
    if float(learned.accuracy.min()) == float(learned.accuracy.max()):
        why = f"every training answer is {'right' if learned.accuracy[0] else 'wrong'}, so that nothing tells right from wrong"
        kept = _own_selector(bundle, learned) is not None
        return None, KEPT if kept else methods.MaxProb.name, f"{KEPT if kept else 'MaxProb'}: {why}"
    fitted = train(learned, seed=seed, progress=_step("training", progress))
    traces, new, scaled = fitted.traces, fitted.confidence, fitted.temperature_confidence

    def compared(one: collect.Array, other: collect.Array) -> tuple[float, str]:
        """Lower end of how much better one is, and the comparison in words."""
        ours, theirs = aurc(one, traces.accuracy), aurc(other, traces.accuracy)
        low, high = better_by(one, other, traces, seed)
        return low, f"AURC {ours:.4f} against {theirs:.4f}, lower by {theirs - ours:.4f} [{low:.4f}, {high:.4f}]"

    own = _own_selector(bundle, traces)
    if own is not None:
        gain, words = compared(new, own)
        if gain > 0:
            return fitted, methods.Selector.name, f"new Selector ({fitted.chosen}); than the bundle's own: {words}"
        if compared(scaled, own)[0] <= 0:
            return fitted, KEPT, f"{KEPT}: a new one is not significantly better ({words})"
    gain, words = compared(new, scaled)
    if gain > 0:
        return fitted, methods.Selector.name, f"new Selector ({fitted.chosen}); than calibrated MaxProb: {words}"
    return fitted, methods.TemperatureScaling.name, f"calibrated MaxProb: a Selector is not significantly better ({words})"


def _own_selector(bundle: Bundle, traces: collect.Traces) -> collect.Array | None:
    """Confidence [n] of the Selector that the bundle has; None when it has none that fits."""
    try:
        return methods.choose(bundle, methods.Selector.name).score_features(traces.features)
    except EdgeVqaError:
        return None


def _choose_points(folder: Path, judged: collect.Traces, options: Options) -> str:
    """Write operating points for the method that gates, and for the early Selector; the name of the former."""
    name = methods.choose(store.read(folder)).name
    for method in (name, methods.SelectorEarly.name):
        found = store.read(folder)
        if method == name or methods.SelectorEarly.role in found.manifest.estimators:
            limits = Limits(options.unfamiliar)
            manifest = choose(found, judged, options.risks, options.delta, options.risks[0], method=method, limits=limits)
            write_manifest(folder, manifest)
    return name


def _needed(
    method: methods.Confidence, confidence: collect.Array, judged: collect.Traces, risk: float, options: Options
) -> int | None:
    """Labelled questions in all, of which only a share chooses thresholds."""
    enough = questions_needed(confidence, judged.accuracy, risk, options.delta, calibrated=method.calibrated)
    return None if enough is None else round(enough / options.calibration)


def _report(
    name: str,
    method: str,
    confidence: collect.Array,
    judged: collect.Traces,
    asked: Sequence[Question],
    work: Path,
    progress: Progress,
) -> list[Path]:
    """The calibration questions, which did not train, as `edge-vqa eval` reports them; without the points chosen on them."""
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
    return report.write(work, report.Subject(name, "calibration questions"), found, answers, cases)
