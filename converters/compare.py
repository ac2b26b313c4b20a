"""What quantisation costs: bundles against a reference of the same model, on the same questions.

- accuracy: mean VQA accuracy of greedy answers.
- KL: divergence of the bundle's token distribution from the reference's, in nats, before each token of the reference's greedy
  answer; the mean over tokens, then over questions.
- same: share of questions with the same greedy answer as the reference's.
- ECE of the bundle's confidence (its Selector where it has one, else MaxProb): 15 equal-mass bins.
- C@R: the largest share of the questions that can be answered, by that confidence, with a risk of at most R.
Intervals are 95 %, by bootstrap over pictures, because questions on one picture fail together.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.llm.threads import Threads
from edge_vqa.metrics import coverage_at_risk, ece, vqa_accuracy
from edge_vqa.pictures.open import open_picture
from edge_vqa.trust import confidence as confidences
from edge_vqa.trust import intervals
from edge_vqa.trust.intervals import Figure
from edge_vqa.trust.trace import Trace, features
from edge_vqa.work.questions import Question

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
DRAWS = 500


@dataclass(frozen=True, eq=False)
class Row:
    """One bundle. accuracy_each, kl_each, same_each and confidence_each have one value a question, in the order of the file.
    coverage: C@R, coverages the same on draws of pictures [DRAWS], which are those of all bundles. fits: whether it is within
    the budget, where there is one."""

    name: str
    quantisation: str
    vision: str
    bits_per_weight: float
    lm_bytes: int
    bytes: int
    accuracy: Figure
    kl: Figure
    same: Figure
    confidence: str
    ece: float
    coverage: Figure
    fits: bool
    accuracy_each: Floats
    kl_each: Floats
    same_each: Floats
    confidence_each: Floats
    coverages: Floats


@dataclass(frozen=True, eq=False)
class _Answered:
    """A bundle's greedy answers: token ids (of so many) and text, accuracy and confidence."""

    vocabulary: int
    tokens: list[list[int]]
    texts: list[str]
    accuracy: Floats
    confidence: Floats


@dataclass(frozen=True)
class Wanted:
    """What is looked for: answers with at most this risk, and, if given, in at most so many bytes."""

    risk: float = 0.05
    budget: int | None = None


def compare(
    reference: Bundle,
    others: Sequence[Bundle],
    questions: Sequence[Question],
    *,
    wanted: Wanted = Wanted(),
    threads: Threads | int = 1,
    progress: Progress = lambda step, done, total: None,
) -> list[Row]:
    """The reference and every other bundle, in this order. Questions need answers. Raises EdgeVqaError."""
    if not 0 < wanted.risk < 1:
        raise EdgeVqaError(f"a risk of {wanted.risk:g} is none", "give a share between 0 and 1, as in --risk 0.05")
    for bundle in (reference, *others):
        store.verify(bundle)
    pictures = [str(question.image) for question in questions]
    with tempfile.TemporaryFile() as rows:  # the reference's distributions: n_vocab floats a token, too much for memory
        answered = _run(reference, questions, threads, partial(_told, progress, reference.name, len(questions)), None, rows)
        made = [_row(reference, answered[0], answered, pictures, wanted)]
        for other in others:
            rows.seek(0)
            theirs = _run(other, questions, threads, partial(_told, progress, other.name, len(questions)), answered[0], rows)
            made.append(_row(other, answered[0], theirs, pictures, wanted))
    return made


def _told(progress: Progress, name: str, total: int, done: int) -> None:
    progress(name, done, total)


def _row(bundle: Bundle, reference: _Answered, result: tuple[_Answered, Floats], pictures: list[str], wanted: Wanted) -> Row:
    answered, kl = result
    same = np.array([a == b for a, b in zip(answered.texts, reference.texts, strict=True)], np.float64)
    quantisation, files = bundle.manifest.quantisation, bundle.manifest.files
    size = files["lm"].bytes + files[bundle.manifest.runtime.tower].bytes
    drawn = _coverages(answered.confidence, answered.accuracy, pictures, wanted.risk)
    return Row(
        name=bundle.name,
        quantisation=f"{quantisation.method}:{quantisation.type}",
        vision=quantisation.vision_type,
        bits_per_weight=quantisation.bits_per_weight,
        lm_bytes=files["lm"].bytes,
        bytes=size,
        accuracy=intervals.mean(answered.accuracy, pictures),
        kl=intervals.mean(kl, pictures),
        same=intervals.mean(same, pictures),
        confidence=confidences.choose(bundle).name,
        ece=ece(answered.confidence, answered.accuracy),
        coverage=Figure(coverage_at_risk(answered.confidence, answered.accuracy, wanted.risk)[0], *intervals.interval(drawn)),
        fits=wanted.budget is None or size <= wanted.budget,
        accuracy_each=answered.accuracy,
        kl_each=kl,
        same_each=same,
        confidence_each=answered.confidence,
        coverages=drawn,
    )


def _coverages(confidence: Floats, accuracy: Floats, pictures: Sequence[str], risk: float) -> Floats:
    """C@R on draws of pictures [DRAWS]."""
    rng = np.random.default_rng(intervals.SEED)
    rows = (np.repeat(np.arange(len(times)), times) for times in intervals.draws(pictures, DRAWS, rng))
    return np.array([coverage_at_risk(confidence[r], accuracy[r], risk)[0] for r in rows])


def choice(rows: Sequence[Row]) -> Row | None:
    """The bundle to take: of those within the budget the smallest that answers about as many questions at the risk as the
    best of them, its difference lying within the noise (paired, 95 %). None where none is within it."""
    fitting = [row for row in rows if row.fits]
    if not fitting:
        return None
    best = max(fitting, key=lambda row: row.coverage.value)
    good = [row for row in fitting if intervals.interval(best.coverages - row.coverages)[0] <= 0]
    return min(good, key=lambda row: row.bytes)


def _run(
    bundle: Bundle,
    questions: Sequence[Question],
    threads: Threads | int,
    done: Callable[[int], None],
    reference: _Answered | None,
    rows: BinaryIO,
) -> tuple[_Answered, Floats]:
    """Answers of a bundle and its KL from the reference; without one, its distributions are written to `rows`."""
    prompt, pixels = bundle.manifest.prompt, bundle.manifest.runtime.preprocessing
    tower = bundle.files[bundle.manifest.runtime.tower]
    engine = Engine(bundle.files["lm"], tower, pixels, backend=bundle.backend, threads=threads)
    try:
        if reference and engine.lm.n_vocab != reference.vocabulary:
            raise EdgeVqaError(
                f"{bundle.name} has {engine.lm.n_vocab} tokens, the reference {reference.vocabulary}",
                "compare bundles of one model",
            )
        method = confidences.choose(bundle)
        tokens, texts, accuracy, confidence, kl = [], [], [], [], []
        opened: Path | None = None
        for number, question in enumerate(questions, 1):
            if question.image != opened:
                engine.open_prefix(engine.embed(picture_pieces(open_picture(question.image), prompt.detail, prompt, pixels)))
                opened = question.image
            asked = question_pieces(question.question, prompt)
            *_, trace = engine.answer(asked, prompt.max_tokens)
            assert isinstance(trace, Trace)
            tokens.append([step.id for step in trace.tokens])
            texts.append(trace.text)
            accuracy.append(vqa_accuracy(trace.text, question.answers))
            confidence.append(float(method.score_features(features(trace))[0]))
            given = reference.tokens[number - 1] if reference else tokens[-1]
            ours = engine.score(asked, given)
            if reference is None:
                rows.write(ours.tobytes())
                kl.append(0.0)
            else:
                kl.append(_divergence(rows, ours))
            done(number)
        return _Answered(engine.lm.n_vocab, tokens, texts, np.array(accuracy), np.array(confidence)), np.array(kl)
    finally:
        engine.close()


def _divergence(rows: BinaryIO, ours: npt.NDArray[np.float32]) -> float:
    theirs = np.frombuffer(rows.read(ours.nbytes), np.float32).reshape(ours.shape).astype(np.float64)
    # vocabularies may end in unused tokens of probability 0, whose share of the sum is 0
    return float((np.exp(theirs) * (theirs - ours)).sum(1).mean())


def table(rows: Sequence[Row], risk: float = 0.05) -> Iterator[list[str]]:
    """Header and lines of the comparison, as text; sizes in MB and as a share of the reference's."""
    named = [
        "bundle",
        "LM",
        "vision",
        "LM MB",
        "all MB",
        "accuracy, %",
        "KL, 1e-3 nats",
        "same answers, %",
        "confidence",
        "ECE",
    ]
    yield [*named, f"C@{risk:.0%}, %"]
    first = rows[0]
    for row in rows:
        yield [
            row.name,
            row.quantisation,
            row.vision,
            f"{row.lm_bytes / 1e6:.2f} ({row.lm_bytes / first.lm_bytes:.0%})",
            f"{row.bytes / 1e6:.2f} ({row.bytes / first.bytes:.0%})",
            _interval(row.accuracy, 100, 1),
            "0" if row is first else _interval(row.kl, 1000, 2),
            _interval(row.same, 100, 1),
            row.confidence,
            f"{row.ece:.3f}",
            _interval(row.coverage, 100, 1),
        ]


def _interval(figure: Figure, factor: float, digits: int) -> str:
    value, low, high = (f"{factor * v:.{digits}f}" for v in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def as_json(rows: Sequence[Row], data: str, wanted: Wanted = Wanted(), taken: Row | None = None) -> str:
    """Everything measured, each question's figures included, and which bundle to take."""

    def plain(value: object) -> object:
        return np.round(value, 8).tolist() if isinstance(value, np.ndarray) else value

    listed = [{key: plain(value) for key, value in asdict(row).items() if key != "coverages"} for row in rows]
    about: dict[str, object] = {"data": data, "questions": len(rows[0].kl_each), "reference": rows[0].name}
    about |= {"risk": wanted.risk, "budget": wanted.budget, "take": taken and taken.name}
    return json.dumps(about | {"bundles": listed})


def plot(rows: Sequence[Row], stream: BinaryIO) -> None:
    """Accuracy and KL against megabytes, one point a bundle, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    methods = list(dict.fromkeys(row.quantisation.split(":")[0] for row in rows))
    for axis, attribute, factor in ((left, "accuracy", 100.0), (right, "kl", 1000.0)):
        for number, method in enumerate(methods):
            chosen = [row for row in rows if row.quantisation.split(":")[0] == method and (axis is left or row is not rows[0])]
            if not chosen:
                continue
            figures = [getattr(row, attribute) for row in chosen]
            values = np.array([f.value for f in figures]) * factor
            spread = np.array([[f.value - f.low for f in figures], [f.high - f.value for f in figures]]) * factor
            megabytes = [row.lm_bytes / 1e6 for row in chosen]
            axis.errorbar(megabytes, values, np.maximum(spread, 0), fmt="o", capsize=3, label=method, color=f"C{number}")
            for x, y, row in zip(megabytes, values, chosen, strict=True):
                if axis is right:
                    axis.annotate(row.quantisation.split(":")[1], (x, y), (4, 4), textcoords="offset points", fontsize=8)
        axis.margins(x=0.15)
        axis.set_xlabel("language model, MB")
        axis.grid(alpha=0.3)
    left.set_ylabel("accuracy, %")
    right.set_ylabel("KL from the reference, 1e-3 nats a token")
    if len(rows) > 1:
        right.set_yscale("log")
    left.legend(fontsize=8)
    figure.savefig(stream, format="png", dpi=120)
    plt.close(figure)
