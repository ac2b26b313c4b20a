"""The bench of architectures: what an MLLM must do here before it is said to work, on a small random checkpoint of each.

    python -m tests.converters.bench [KIND ...] [--write]

prints one row an architecture, and with --write puts the table into docs/models.md.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import BACKENDS
from edge_vqa.bundles.store import Bundle
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.pictures.open import Picture, open_picture
from edge_vqa.trust.trace import Trace
from tests.conftest import EXAMPLES, ROOT
from tests.converters.random_checkpoints import KINDS, make
from tests.converters.reference import Compared, Reference

PAGE = ROOT / "docs" / "models.md"
SHAPES = ((300, 200), (120, 300), (64, 64), (451, 300), (90, 210))
QUESTIONS = ("what is this?", "Is it red?")
EXACT = Options(quant="f32", vision_type="f32", onnx_type="f32")
SAME = 1e-4  # of the logits' range: what the order of sums may change
SEEN = 3e-2  # of the logits' range: less, and an error in what is made of a picture could not be told


@dataclass(frozen=True)
class Row:
    """error: largest of first-token logits against `transformers`, as a share of their range; seen: how much another picture
    changes them, likewise; tokens: whether all greedy ones were the same; again, third: largest differences of logits from
    those of a fresh process; together: the same answers."""

    kind: str
    error: float
    seen: float
    tokens: bool
    again: float
    third: float
    together: bool
    ends: bool

    @property
    def fine(self) -> bool:
        exact = self.error <= 1e-3 and self.seen >= SEEN and max(self.again, self.third) <= SAME
        return exact and self.tokens and self.together and self.ends


@contextmanager
def opened(bundle: Bundle, sequences: int = 1) -> Iterator[Engine]:
    """A fresh engine of a bundle, as exact as it gets."""
    pixels, tower = bundle.manifest.runtime.preprocessing, bundle.files[BACKENDS[bundle.backend]]
    engine = Engine(bundle.files["lm"], tower, pixels, backend=bundle.backend, kv_type="f32", sequences=sequences)
    try:
        yield engine
    finally:
        engine.close()


def show(engine: Engine, bundle: Bundle, picture: Picture) -> None:
    manifest = bundle.manifest
    engine.open_prefix(engine.embed(picture_pieces(picture, "low", manifest.prompt, manifest.runtime.preprocessing)))


def first_logits(engine: Engine, bundle: Bundle, question: str) -> npt.NDArray[np.float32]:
    """After a whole answer to another question, which leaves the cache as it usually is."""
    return engine.lm.step([engine._ask(question_pieces(question, bundle.manifest.prompt), 1).due])[0][0].copy()


def answer(engine: Engine, bundle: Bundle, question: str) -> list[int]:
    *_, trace = engine.answer(question_pieces(question, bundle.manifest.prompt), 8)
    assert isinstance(trace, Trace)
    return [token.id for token in trace.tokens]


def apart(ours: npt.NDArray[np.float32], fresh: npt.NDArray[np.float32]) -> float:
    return float(np.abs(ours - fresh).max() / np.ptp(fresh))


def pictures(shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[Picture]:
    """One in each of these shapes (another where a shape comes again), and one more in the first."""
    photos = [Image.open(EXAMPLES / f"{name}.jpg") for name in ("cat", "apples", "coffee")]
    shown = [photos[shapes[:n].count(shape)].resize(shape) for n, shape in enumerate(shapes)]
    return [open_picture(image) for image in (*shown, photos[2].resize(shapes[0]))]


def measure(kind: str, folder: Path) -> Row:
    """The row of an architecture that we convert, on a checkpoint written into this folder."""
    checkpoint = make(folder / "checkpoint", kind)
    convert(checkpoint, folder / "bundle", EXACT)
    bundle = store.read(folder / "bundle")
    return compare(kind, bundle, Reference(checkpoint, bundle))


class Compares(Protocol):
    """What a bundle is measured against."""

    def compare(self, picture: Picture, question: str, detail: str) -> Compared: ...

    def close(self) -> None: ...


def compare(kind: str, bundle: Bundle, reference: Compares, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Row:
    """The row of a bundle, its reference's memory freed."""
    shown = pictures(shapes)
    try:
        compared = [reference.compare(picture, question, "low") for picture in shown for question in QUESTIONS]
    finally:
        reference.close()
    fresh, answers = {}, {}
    for number in (0, 2):
        for question in QUESTIONS:
            with opened(bundle) as engine:
                show(engine, bundle, shown[number])
                fresh[number, question] = first_logits(engine, bundle, question)
                answers[number, question] = answer(engine, bundle, question)
    with opened(bundle) as engine:
        for number in (0, 1, 2):
            show(engine, bundle, shown[number])
            logits = []
            for question in QUESTIONS:
                answer(engine, bundle, QUESTIONS[0])
                logits.append(first_logits(engine, bundle, question))
            if number == 0:
                again = max(apart(ours, fresh[0, question]) for ours, question in zip(logits, QUESTIONS, strict=True))
        third = max(apart(ours, fresh[2, question]) for ours, question in zip(logits, QUESTIONS, strict=True))
        ends = all(engine.lm.is_end(engine.lm.tokenize(token, special=True)[0]) for token in bundle.manifest.prompt.stop)
    with opened(bundle, sequences=4) as engine:
        manifest = bundle.manifest
        embedded = [
            list(engine.embed(picture_pieces(shown[n], "low", manifest.prompt, manifest.runtime.preprocessing))) for n in (0, 2)
        ]
        asked = [(n, question_pieces(question, manifest.prompt)) for n in (0, 1) for question in QUESTIONS]
        traces = engine.answer_together(embedded, asked, 8)
    together = [[token.id for token in trace.tokens] for trace in traces]
    return Row(
        kind,
        max(one.error for one in compared),
        apart(compared[0].theirs, compared[-len(QUESTIONS)].theirs),
        all(one.same_tokens for one in compared),
        again,
        third,
        together == [answers[n, question] for n in (0, 2) for question in QUESTIONS],
        ends,
    )


def table(rows: list[Row]) -> str:
    def said(fine: bool) -> str:
        return "yes" if fine else "**no**"

    columns = ("architecture", "logits", "picture", "same answers", "second question", "third picture", "four at once", "ends")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        numbers = f"{row.error:.1e} | {row.seen:.2f} | {said(row.tokens)} | {row.again:.0e} | {row.third:.0e}"
        lines.append(f"| `{row.kind}` | {numbers} | {said(row.together)} | {said(row.ends)} |")
    return "\n".join(lines)


def main() -> None:
    rows = []
    for kind in [name for name in sys.argv[1:] if name != "--write"] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(kind, Path(folder)))
            print(f"{kind}: {'as it should' if rows[-1].fine else 'NOT as it should'}", flush=True)
    print(table(rows))
    if "--write" in sys.argv:
        put(rows, "bench")


def put(rows: list[Row], mark: str) -> None:
    """Put a table between its marks in docs/models.md."""
    marks = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
    PAGE.write_text(re.sub(marks, lambda found: f"{found[1]}\n{table(rows)}\n\n{found[2]}", PAGE.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
