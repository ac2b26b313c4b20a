"""The public interface: load a bundle, ask questions about pictures, get answers or abstentions.

A `Model` may be shared between threads: it answers one question at a time, the others wait. Within one thread a stream must
be read to its end (or closed) before the next question.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np

from edge_vqa import bundle as bundles
from edge_vqa import confidence as confidences
from edge_vqa import gate as gates
from edge_vqa import native
from edge_vqa.bundle import Bundle
from edge_vqa.device import default_threads
from edge_vqa.engine import Engine
from edge_vqa.errors import EdgeVqaError
from edge_vqa.picture import ImageSource, Picture, open_picture
from edge_vqa.prompt import picture_pieces, question_pieces
from edge_vqa.trace import Timings, TokenTrace, Trace

COUNTED_TOGETHER = 50  # confidences that the drift watch writes at once


@dataclass(frozen=True)
class Token:
    """A provisional piece of an answer, before the gate has decided."""

    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of one question. `text` is None when abstained; `candidate` is what would have been said: empty when an early
    confidence method abstained before anything was decoded."""

    text: str | None
    candidate: str
    abstained: bool
    confidence: float
    confidence_method: str
    threshold: float | None
    risk_target: float | None
    calibrated: bool
    maxprob: float
    model: str
    trace: Trace
    timings: Timings


@dataclass(frozen=True)
class Verdict:
    """The last event of a stream."""

    answer: Answer


Event: TypeAlias = Token | Verdict


def load(
    name: str | Path | None = None,
    *,
    confidence: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv_type: str = "f16",
    gpu_layers: int = -1,
    watch: bool | None = None,
) -> Model:
    """Load a bundle by path or name; without one, the embedded model.

    confidence: the method that gates, one of `confidence.METHODS` (default: the best that the bundle has). `selector-early`
    decides after the first token: it abstains without decoding an answer, and the tokens of an answer it trusts are final.

    threads: CPU threads (default: by the size of the LM). context: tokens of the KV cache (default: room for the largest
    picture), at most what the LM was trained for. kv_type: f16, f32 (which also makes attention exact) or q8_0; thresholds
    hold for f16. watch: count confidences for the drift watch (`watch.py`; default: when $EDGE_VQA_WATCH is 1). Raises
    EdgeVqaError for anything missing, damaged or mismatched.
    """
    began = time.perf_counter()
    bundle = bundles.read(name)
    bundles.verify(bundle)
    return Model(
        bundle,
        confidence=confidence,
        threads=threads,
        context=context,
        kv_type=kv_type,
        gpu_layers=gpu_layers,
        watch=watch,
        began=began,
    )


class Model:
    """A loaded bundle. Owns native memory until `close()` or the end of a `with` block."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        confidence: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv_type: str = "f16",
        gpu_layers: int = -1,
        watch: bool | None = None,
        began: float | None = None,
    ) -> None:
        began = time.perf_counter() if began is None else began
        manifest = bundle.manifest
        self.bundle = bundle
        self.warnings: list[str] = []
        self._turn = threading.Lock()
        self._owner: int | None = None
        self._live: Generator[Event] | None = None
        self._opened: tuple[str, bytes] | None = None
        self._closed = False
        self._kv_type = kv_type
        self._watch = os.environ.get("EDGE_VQA_WATCH") == "1" if watch is None else watch
        self._seen: list[float] = []
        if threads is not None and threads < 1:
            raise EdgeVqaError(f"{threads} threads cannot run a model", "give 1 or more")
        self.confidence = confidences.choose(bundle, confidence)
        self._engine = Engine(
            bundle.files["lm"],
            bundle.files["vision"],
            manifest.runtime.preprocessing,
            context=context,
            threads=threads or default_threads(manifest.files["lm"].bytes),
            kv_type=kv_type,
            gpu_layers=gpu_layers,
        )
        template = hashlib.sha256(self._engine.chat_template().encode()).hexdigest()
        if template != manifest.prompt.template_sha256:
            self.close()
            raise EdgeVqaError(
                f"the prompt of {manifest.name} was not rendered from its LM's chat template",
                "convert the bundle again",
            )
        if manifest.operating_points and native.version() != manifest.runtime.llama_cpp_python:
            self.warnings.append(
                f"thresholds of {manifest.name} were chosen with llama-cpp-python"
                f" {manifest.runtime.llama_cpp_python}, this is {native.version()}: scores may differ slightly"
            )
        self.load_s = time.perf_counter() - began

    # -- questions ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        detail: str | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Answer a question about a picture, or abstain.

        image: path, bytes of an image file, PIL image, or RGB uint8 array [h, w, 3]. risk: take the bundle's operating point
        for this share of wrong answers; threshold: an own threshold on the confidence; gate=False: always answer. detail:
        `low` looks at the picture as one tile, `high` at slices too. The same picture again is not encoded again.
        """
        events = self.stream(image, question, risk=risk, threshold=threshold, gate=gate, detail=detail, max_tokens=max_tokens)
        last = None
        for last in events:  # noqa: B007 - the last event is the verdict
            pass
        assert isinstance(last, Verdict)
        return last.answer

    def stream(
        self,
        image: ImageSource,
        question: str,
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        detail: str | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[Event]:
        """Like `ask`, token by token: provisional `Token`s as they come, then one `Verdict`.

        With an early confidence method there are no tokens before it has decided: they are final.
        """
        manifest = self.bundle.manifest
        chosen = gates.choose(manifest, self.confidence.name, risk=risk, threshold=threshold, gate=gate)
        detail = detail or manifest.prompt.detail
        limit = manifest.prompt.max_tokens if max_tokens is None else max_tokens
        if limit < 1:
            raise EdgeVqaError(f"an answer of {limit} tokens is none", "give --max-tokens 1 or more")
        pieces = question_pieces(question, manifest.prompt)
        as_calibrated = (detail, limit, self._kv_type) == (manifest.prompt.detail, manifest.prompt.max_tokens, "f16")

        def events() -> Generator[Event]:
            with _Turn(self):
                self._live = live
                began = time.perf_counter()
                self._open(open_picture(image), detail)
                opened = time.perf_counter()
                early = self.confidence.early
                trace: Trace | None = None
                first = gating = 0.0
                for step in self._engine.answer(pieces, limit):
                    if isinstance(step, TokenTrace):
                        yield Token(step.text, step.logprob)
                        continue
                    now = time.perf_counter()
                    first = first or now
                    if early == (trace is None):  # an early method decides on the first trace, any other on the last
                        confidence = self.confidence.score(step)
                        answered = chosen.answers(confidence)
                        gating = time.perf_counter() - now
                    trace = step
                    if early and not answered:
                        break
                assert trace is not None
                ended = time.perf_counter()
                timings = Timings(
                    load_s=self.load_s,
                    image_s=opened - began,
                    prompt_s=first - opened,
                    decode_s=ended - first - gating,
                    gate_s=gating,
                    total_s=ended - began,
                )
                if self._watch and as_calibrated:
                    self._count(confidence)
                candidate = "" if early and not answered else trace.text
                yield Verdict(
                    Answer(
                        text=candidate if answered else None,
                        candidate=candidate,
                        abstained=not answered,
                        confidence=confidence,
                        confidence_method=self.confidence.name,
                        threshold=chosen.threshold,
                        risk_target=chosen.risk,
                        calibrated=chosen.calibrated and as_calibrated,
                        maxprob=trace.maxprob,
                        model=manifest.name,
                        trace=trace,
                        timings=timings,
                    )
                )

        live = events()
        return live

    def open(self, image: ImageSource, *, detail: str | None = None) -> OpenPicture:
        """Encode a picture once for many questions: `with model.open("photo.jpg") as picture: picture.ask("...")`."""
        picture = open_picture(image)
        with _Turn(self):
            self._open(picture, detail or self.bundle.manifest.prompt.detail)
        return OpenPicture(self, picture, detail)

    def _open(self, picture: Picture, detail: str) -> None:
        """Make the picture the engine's prefix, unless it is already."""
        pixels = hashlib.sha256(repr(picture.size).encode())
        pixels.update(np.ascontiguousarray(picture.rgb).data)
        key = (detail, pixels.digest())
        if key == self._opened:
            return
        self._opened = None
        prompt, preprocessing = self.bundle.manifest.prompt, self.bundle.manifest.runtime.preprocessing
        self._engine.open_prefix(picture_pieces(picture, detail, prompt, preprocessing))
        self._opened = key

    def _count(self, confidence: float) -> None:
        self._seen.append(confidence)
        if len(self._seen) >= COUNTED_TOGETHER:
            self._write_counts()

    def _write_counts(self) -> None:
        if self._seen:
            from edge_vqa import watch as watching  # only who watches needs it

            watching.record(self.bundle, self.confidence.name, self._seen)
            self._seen = []

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free all native memory; safe to call twice."""
        if self._closed:
            return
        if self._owner == threading.get_ident() and self._live is not None:
            self._live.close()  # an unfinished stream of this thread ends here
        with self._turn:  # a question of another thread is answered first
            self._closed = True
            self._write_counts()
            self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class OpenPicture:
    """A picture that stays open for questions. Another picture asked in between only costs encoding this one again."""

    def __init__(self, model: Model, picture: Picture, detail: str | None) -> None:
        self._model, self._picture, self._detail = model, picture, detail

    def ask(self, question: str, *, risk: float | None = None, threshold: float | None = None, gate: bool = True) -> Answer:
        """See `Model.ask`."""
        return self._model.ask(self._picture, question, risk=risk, threshold=threshold, gate=gate, detail=self._detail)

    def stream(
        self, question: str, *, risk: float | None = None, threshold: float | None = None, gate: bool = True
    ) -> Iterator[Event]:
        """See `Model.stream`."""
        return self._model.stream(self._picture, question, risk=risk, threshold=threshold, gate=gate, detail=self._detail)

    def close(self) -> None:
        """Nothing native belongs to the picture alone; its place in the KV cache goes to the next one."""

    def __enter__(self) -> OpenPicture:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Turn:
    """One question at a time: waits for other threads, and refuses a second question inside one's own open stream."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __enter__(self) -> None:
        model = self._model
        if model._owner == threading.get_ident():
            raise EdgeVqaError("a stream of this model is still open", "read it to its end or close it first")
        model._turn.acquire()
        if model._closed:
            model._turn.release()
            raise EdgeVqaError("the model is closed", "load it again")
        model._owner = threading.get_ident()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._model._owner = self._model._live = None
        self._model._turn.release()
