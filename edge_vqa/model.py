"""The public interface: load a bundle, ask questions about pictures, get answers or abstentions.

A `Model` may be shared between threads: it answers one question at a time, the others wait. Within one thread a stream must
be read to its end (or closed) before the next question.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_vqa import admission, many, memory, native, tuning
from edge_vqa import bundle as bundles
from edge_vqa import confidence as confidences
from edge_vqa import gate as gates
from edge_vqa.answer import Answer, Event, Token, Verdict
from edge_vqa.bundle import BACKENDS, Bundle
from edge_vqa.cache import KEPT, PictureCache, key_of
from edge_vqa.device import Threads, profile_of
from edge_vqa.engine import Engine, Part, cells_of, room_for
from edge_vqa.errors import EdgeVqaError, require
from edge_vqa.gate import Gate
from edge_vqa.picture import ImageSource, Picture, open_picture
from edge_vqa.prompt import clean_question, picture_pieces, question_pieces
from edge_vqa.trace import Timings, TokenTrace, Trace

COUNTED_TOGETHER = 50  # confidences that the drift watch writes at once
DETAILS = ("low", "high", "auto")


@dataclass(frozen=True)
class Options:
    """How a bundle is run.

    confidence: the method that gates, one of `confidence.METHODS` (default: the best that the bundle has). `selector-early`
    decides after the first token: it abstains without decoding an answer, and the tokens of an answer it trusts are final.

    device: the name of a device profile (default: that of this machine), which settles what is not given here. vision: the
    backend of the vision tower, `mtmd` or `onnx` (default: what the bundle has; of both, the faster one here, measured
    once). threads: CPU threads (default: what was measured on this device, else by the size of the LM). context: tokens of the
    KV cache (default: room for the largest picture), at most what the LM was trained for. kv_type: f16, f32 (which also makes
    attention exact) or q8_0; thresholds hold for f16. gpu_layers: layers of the LM on a GPU, -1 for all. sequences: questions
    that `ask_many` may answer together (None: what was measured on this device). memory_limit: bytes (default: a share of what
    is free); a bundle that would need more is refused before it is loaded. watch: count confidences for
    the drift watch (`watch.py`; default: when $EDGE_VQA_WATCH is 1). pictures, cache_dir: how many encoded pictures to keep in
    memory, and a folder to keep them in. then: a larger bundle, by name or path, that is loaded and asked where this one
    abstains.
    """

    confidence: str | None = None
    device: str | None = None
    vision: str | None = None
    threads: Threads | int | None = None
    context: int | None = None
    kv_type: str | None = None
    gpu_layers: int | None = None
    sequences: int | None = 1
    memory_limit: int | None = None
    watch: bool | None = None
    pictures: int = KEPT
    cache_dir: Path | None = None
    then: str | Path | None = None

    def __post_init__(self) -> None:
        require(str, "a string", confidence=self.confidence, device=self.device, vision=self.vision, kv_type=self.kv_type)
        require((Threads, Integral), "Threads or a whole number", threads=self.threads)
        numbers = {"context": self.context, "gpu_layers": self.gpu_layers, "sequences": self.sequences}
        require(Integral, "a whole number", **numbers, memory_limit=self.memory_limit, pictures=self.pictures)
        require((str, os.PathLike), "a path", cache_dir=self.cache_dir, then=self.then)


def load(
    name: str | Path | None = None,
    *,
    confidence: str | None = None,
    device: str | None = None,
    vision: str | None = None,
    threads: Threads | int | None = None,
    context: int | None = None,
    kv_type: str | None = None,
    gpu_layers: int | None = None,
    sequences: int | None = 1,
    memory_limit: int | None = None,
    watch: bool | None = None,
    pictures: int = KEPT,
    cache_dir: Path | None = None,
    then: str | Path | None = None,
) -> Model:
    """Load a bundle by path or name; without one, the embedded model. The rest: see `Options`.

    Raises EdgeVqaError for anything missing, damaged or mismatched.
    """
    began = time.perf_counter()
    require((str, os.PathLike), "a path or a name", name=name)
    options = Options(
        confidence=confidence,
        device=device,
        vision=vision,
        threads=threads,
        context=context,
        kv_type=kv_type,
        gpu_layers=gpu_layers,
        sequences=sequences,
        memory_limit=memory_limit,
        watch=watch,
        pictures=pictures,
        cache_dir=cache_dir,
        then=then,
    )
    bundle = bundles.read(name)
    bundles.verify(bundle)
    return Model(bundle, options, began=began)


@dataclass(frozen=True)
class Look:
    """One look at a picture: by which model, at which detail. The second model of a cascade is loaded by its first question."""

    owner: Model
    detail: str
    second: bool = False

    @property
    def model(self) -> Model:
        return self.owner.second if self.second else self.owner


@dataclass(frozen=True)
class Plan:
    """How a question is asked: the looks that it gets until one of them answers, the gate of all of them, the longest answer
    (None: the bundle's), and whether confidences are those that calibration saw."""

    looks: tuple[Look, ...]
    gate: Gate
    max_tokens: int | None
    as_calibrated: bool


@dataclass(frozen=True, eq=False)
class _Seen:
    """What came of one look."""

    trace: Trace
    confidence: float
    answered: bool
    timings: Timings


class Model:
    """A loaded bundle. Owns native memory until `close()` or the end of a `with` block."""

    def __init__(self, bundle: Bundle, options: Options = Options(), *, began: float | None = None) -> None:
        began = time.perf_counter() if began is None else began
        manifest = bundle.manifest
        admission.admit(bundle)
        self.bundle, self.options = bundle, options
        self.warnings: list[str] = []
        self._turn = threading.Lock()
        self._owner: int | None = None
        self._live: Generator[Any] | None = None
        self._opened: bytes | None = None
        self._closed = False
        self._watch = os.environ.get("EDGE_VQA_WATCH") == "1" if options.watch is None else options.watch
        self._seen: list[float] = []
        self._then = bundles.read(options.then) if options.then is not None else None
        self._second: Model | None = None
        threads = None if options.threads is None else Threads.of(options.threads)
        self.confidence = confidences.choose(bundle, options.confidence)
        self.profile = profile_of(options.device)
        usual = self.profile.run
        choice = tuning.choose(bundle, options.vision, threads, usual.threads)
        self.backend, self.threads = choice.vision, choice.threads
        self.sequences = choice.together if options.sequences is None else options.sequences
        if self.sequences < 1:
            raise EdgeVqaError(f"{self.sequences} questions cannot be answered together", "give 1 or more")
        self.kv_type = options.kv_type or usual.kv_type
        context = options.context
        if context is None:
            context = usual.context_in(room_for(manifest.runtime.preprocessing))
        role = BACKENDS[self.backend]
        self.fingerprint = bundle.fingerprint_with(role)
        need = memory.Need(self.backend, context, self.kv_type, self.sequences)
        if options.memory_limit is not None:
            memory.check(bundle, need, options.memory_limit)
        else:
            memory.check_free(bundle, need, usual.memory_limit)
        self._engine = Engine(
            bundle.files["lm"],
            bundle.files[role],
            manifest.runtime.preprocessing,
            backend=self.backend,
            context=context,
            threads=self.threads,
            kv_type=self.kv_type,
            gpu_layers=usual.gpu_layers if options.gpu_layers is None else options.gpu_layers,
            sequences=self.sequences,
        )
        template = hashlib.sha256(self._engine.lm.chat_template().encode()).hexdigest()
        if template != manifest.prompt.template_sha256:
            self.close()
            raise EdgeVqaError(
                f"the prompt of {manifest.name} was not rendered from its LM's chat template",
                "convert the bundle again",
            )
        identity = repr((self.fingerprint, self.backend, manifest.prompt, manifest.runtime.preprocessing, native.version()))
        self._cache = PictureCache(identity, self._engine.lm.n_embd_in, options.pictures, options.cache_dir)
        if manifest.operating_points:
            self._warn(role)
        self.load_s = time.perf_counter() - began

    def _warn(self, role: str) -> None:
        """What may make scores differ from those that the thresholds were chosen on."""
        runtime, chosen = self.bundle.manifest.runtime, f"thresholds of {self.bundle.name} were chosen with"
        if native.version() != runtime.llama_cpp_python:
            self.warnings.append(
                f"{chosen} llama-cpp-python {runtime.llama_cpp_python}, this is {native.version()}: scores may differ slightly"
            )
        if role != runtime.tower:
            self.warnings.append(
                f"{chosen} the vision backend {self.bundle.backend}, this is {self.backend}: scores may differ slightly"
            )

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
        `low` looks at the picture as one tile, `high` at slices too, `auto` at slices only where the first look abstains. The
        same picture again is not encoded again.
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

        With an early confidence method there are no tokens before it has decided: they are final. Of several looks, only the
        last one's tokens come before it has decided.
        """
        plan = self.plan(risk=risk, threshold=threshold, gate=gate, detail=detail, max_tokens=max_tokens)
        clean_question(question)  # what is wrong with it is said now

        def events() -> Generator[Event]:
            with _Turn(self):
                self._live = live
                began = time.perf_counter()
                picture = open_picture(image)
                spent = Timings(load_s=self.load_s)
                for look in plan.looks:
                    last, held = look is plan.looks[-1], []
                    for step in look.model._look(picture, question, look.detail, plan):
                        if isinstance(step, _Seen):
                            seen = step
                        elif last:
                            yield step
                        else:
                            held.append(step)
                    spent = spent.plus(seen.timings)
                    if last or seen.answered:
                        yield from held
                        spent = replace(spent, total_s=time.perf_counter() - began)
                        yield Verdict(self.judge(plan, look, seen.trace, seen.confidence, spent))
                        return

        live = events()
        return live

    def ask_many(
        self,
        asked: Iterable[tuple[ImageSource, str]],
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        detail: str | None = None,
        max_tokens: int | None = None,
    ) -> Generator[Answer | EdgeVqaError]:
        """`ask` for many questions, faster: an Answer for each, in order, or the error that it would have raised.

        Up to `Options.sequences` questions are decoded together, neighbours on one picture share it, and the next pictures are
        opened meanwhile. No more of `asked` is taken than is needed for that.
        """
        if not isinstance(asked, Iterable):
            raise TypeError(f"asked must be pairs of an image and a question, not {type(asked).__name__}")
        plan = self.plan(risk=risk, threshold=threshold, gate=gate, detail=detail, max_tokens=max_tokens)

        def answers() -> Generator[Answer | EdgeVqaError]:
            with _Turn(self):
                self._live = live
                yield from many.run(self, asked, plan)

        live = answers()
        return live

    def plan(
        self,
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        detail: str | None = None,
        max_tokens: int | None = None,
    ) -> Plan:
        """What `ask` will do with these settings. Raises EdgeVqaError for settings that do not work."""
        require(Real, "a number", risk=risk, threshold=threshold)
        require(Integral, "a whole number", max_tokens=max_tokens)
        require(str, "a string", detail=detail)
        manifest, own = self.bundle.manifest, self.bundle.manifest.prompt
        detail = detail or own.detail
        if detail not in DETAILS:
            raise EdgeVqaError(f"detail {detail!r} is unknown", f"use one of {', '.join(DETAILS)}")
        if max_tokens is not None and max_tokens < 1:
            raise EdgeVqaError(f"an answer of {max_tokens} tokens is none", "give --max-tokens 1 or more")
        looks = [Look(self, "low" if detail == "auto" else detail)]
        cascade = None
        if detail == "auto":
            if self._then is not None:
                raise EdgeVqaError("--detail auto and --then are two ways to look again", "give one of them")
            looks.append(Look(self, "high"))
            cascade = manifest.cascade(self.bundle.pair(self.bundle), "high")
        elif self._then is not None:
            looks.append(Look(self, self._then.manifest.prompt.detail, second=True))
            cascade = manifest.cascade(self.bundle.pair(self._then), looks[-1].detail)
        chosen = gates.choose(manifest, self.confidence.name, risk=risk, threshold=threshold, gate=gate, cascade=cascade)
        as_calibrated = (
            max_tokens in (None, own.max_tokens)
            and self.kv_type == "f16"
            and (cascade is not None if len(looks) > 1 else detail == own.detail)
        )
        chosen = replace(chosen, calibrated=chosen.calibrated and as_calibrated)
        return Plan(tuple(looks), chosen, max_tokens, as_calibrated)

    @property
    def second(self) -> Model:
        """The larger model of a cascade, loaded on first use."""
        if self._second is None:
            assert self._then is not None
            bundles.verify(self._then)
            self._second = Model(self._then, replace(self.options, then=None, vision=None, threads=None, watch=False))
            self.warnings += self._second.warnings
        return self._second

    def _look(self, picture: Picture, question: str, detail: str, plan: Plan) -> Iterator[Token | _Seen]:
        """Ask once; nobody else may be asking."""
        prompt = self.bundle.manifest.prompt
        pieces = question_pieces(question, prompt)
        began = time.perf_counter()
        self._open(picture, detail)
        opened = time.perf_counter()
        early = self.confidence.early
        trace: Trace | None = None
        first = gating = 0.0
        answered, confidence = True, 0.0
        for step in self._engine.answer(pieces, plan.max_tokens or prompt.max_tokens):
            if isinstance(step, TokenTrace):
                yield Token(step.text, step.logprob)
                continue
            now = time.perf_counter()
            first = first or now
            if early == (trace is None):  # an early method decides on the first trace, any other on the last
                confidence = self.confidence.score(step)
                answered = plan.gate.answers(confidence)
                gating = time.perf_counter() - now
            trace = step
            if early and not answered:
                break
        assert trace is not None
        spent = Timings(
            image_s=opened - began,
            prompt_s=first - opened,
            decode_s=time.perf_counter() - first - gating,
            gate_s=gating,
        )
        yield _Seen(trace, confidence, answered, spent)

    def judge(self, plan: Plan, look: Look, trace: Trace, confidence: float, timings: Timings) -> Answer:
        """The answer to a question, from the look that decided."""
        if self._watch and plan.as_calibrated and len(plan.looks) == 1:
            self._count(confidence)
        method = look.model.confidence
        answered = plan.gate.answers(confidence)
        candidate = "" if method.early and not answered else trace.text
        return Answer(
            text=candidate if answered else None,
            candidate=candidate,
            abstained=not answered,
            confidence=confidence,
            confidence_method=method.name,
            threshold=plan.gate.threshold,
            risk_target=plan.gate.risk,
            calibrated=plan.gate.calibrated,
            maxprob=trace.maxprob,
            model=look.model.bundle.name,
            detail=look.detail,
            trace=trace,
            timings=timings,
        )

    def open(self, image: ImageSource, *, detail: str | None = None) -> OpenPicture:
        """Encode a picture once for many questions: `with model.open("photo.jpg") as picture: picture.ask("...")`."""
        look = self.plan(detail=detail).looks[0]
        picture = open_picture(image)
        with _Turn(self):
            self._open(picture, look.detail)
        return OpenPicture(self, picture, detail)

    def _open(self, picture: Picture, detail: str) -> None:
        """Make the picture the engine's prefix, unless it is already."""
        key = key_of(picture, detail)
        if key == self._opened:
            return
        self._opened = None
        self._engine.open_prefix(self.encode(key, picture, detail))
        self._opened = key

    def encode(self, key: bytes, picture: Picture, detail: str) -> list[Part]:
        """The prompt up to and including the picture, from the cache where it is there. Not while another thread encodes."""
        parts = self._cache.get(key)
        if parts is None:
            manifest = self.bundle.manifest
            parts = list(self._engine.embed(picture_pieces(picture, detail, manifest.prompt, manifest.runtime.preprocessing)))
            self._cache.put(key, parts)
        return parts

    def answer_together(
        self, pictures: Sequence[list[Part]], asked: Sequence[tuple[int, str]], plan: Plan
    ) -> list[tuple[Trace, float]]:
        """One look at several questions, each on one of the pictures (by number): traces and confidences.

        See `Engine.answer_together`.
        """
        self._opened = None
        prompt = self.bundle.manifest.prompt
        pieces = [(number, question_pieces(question, prompt)) for number, question in asked]
        early: list[float] = []

        def go_on(traces: Sequence[Trace]) -> list[bool]:
            early.extend(self.confidence.score(trace) for trace in traces)
            return [plan.gate.answers(score) for score in early]

        traces = self._engine.answer_together(
            pictures, pieces, plan.max_tokens or prompt.max_tokens, go_on if self.confidence.early else None
        )
        return list(zip(traces, early or [self.confidence.score(trace) for trace in traces], strict=True))

    def cells(self, parts: Sequence[Part], question: str, plan: Plan) -> tuple[int, int, int]:
        """Cells of the KV cache that a picture takes, a question, and the longest answer to it."""
        prompt = self.bundle.manifest.prompt
        asked = self._engine.cells(question_pieces(question, prompt))
        return sum(map(cells_of, parts)), asked, plan.max_tokens or prompt.max_tokens

    def speed(self, prompt: int, answer: int) -> tuple[float, float]:
        """See `Engine.speed`."""
        with _Turn(self):
            self._opened = None
            return self._engine.speed(prompt, answer)

    @property
    def n_ctx(self) -> int:
        """Cells of the KV cache."""
        return self._engine.lm.n_ctx

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
            if self._second is not None:
                self._second.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class OpenPicture:
    """A picture that stays open for questions. Another picture asked in between only costs decoding this one again."""

    def __init__(self, model: Model, picture: Picture, detail: str | None) -> None:
        self._model, self._picture, self._detail = model, picture, detail

    def ask(
        self,
        question: str,
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        max_tokens: int | None = None,
    ) -> Answer:
        """See `Model.ask`."""
        return self._model.ask(
            self._picture,
            question,
            risk=risk,
            threshold=threshold,
            gate=gate,
            detail=self._detail,
            max_tokens=max_tokens,
        )

    def stream(
        self,
        question: str,
        *,
        risk: float | None = None,
        threshold: float | None = None,
        gate: bool = True,
        max_tokens: int | None = None,
    ) -> Iterator[Event]:
        """See `Model.stream`."""
        return self._model.stream(
            self._picture,
            question,
            risk=risk,
            threshold=threshold,
            gate=gate,
            detail=self._detail,
            max_tokens=max_tokens,
        )

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
