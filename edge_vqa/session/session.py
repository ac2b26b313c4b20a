"""A loaded bundle: takes one look at a picture, for one question or for several together. Whose turn it is, `Model` decides."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge_vqa.answer import Token
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import BACKENDS, Prompt, llama_cpp_version
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import admission, memory, tuning
from edge_vqa.device.profile import profile_of
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import Engine, cells_of, room_for
from edge_vqa.llm.prompt import Text, picture_pieces, question_pieces
from edge_vqa.llm.threads import Threads
from edge_vqa.pictures.open import Picture
from edge_vqa.pictures.statistics import NAMES, pixel_statistics
from edge_vqa.session.options import Options
from edge_vqa.trust import confidence as confidences
from edge_vqa.trust import familiarity as familiarities
from edge_vqa.trust.confidence import Confidence, SelectorEarly
from edge_vqa.trust.familiarity import Familiarity
from edge_vqa.trust.gate import Gate
from edge_vqa.trust.trace import Timings, TokenTrace, Trace, features
from edge_vqa.vision.cache import PictureCache, key_of
from edge_vqa.vision.tokens import Part, with_pixels

COUNTED_TOGETHER = 50  # confidences that the drift watch writes at once


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of one look."""

    trace: Trace
    confidence: float
    familiarity: float | None
    answered: bool
    timings: Timings


class Session:
    """A loaded bundle. Owns native memory until `close()`. Not thread-safe, but that `encode` and `cached` may run beside
    anything."""

    def __init__(self, bundle: Bundle, options: Options | None = None, *, began: float | None = None) -> None:
        began = time.perf_counter() if began is None else began
        options = options or Options()
        admission.admit(bundle)
        self.bundle, self.options = bundle, options
        self.warnings: list[str] = [bundle.instead_of] if bundle.instead_of else []
        self._opened: bytes | None = None
        self._encoding = threading.Lock()  # of tower and cache
        self._early: tuple[Confidence, Familiarity | None] | None = None
        self._watch = os.environ.get("EDGE_VQA_WATCH") == "1" if options.watch is None else options.watch
        self._counted: list[tuple[float, float | None]] = []
        self.then = store.read(options.then) if options.then is not None else None
        self._second: Session | None = None
        self.confidence = confidences.choose(bundle, options.confidence)
        self.familiarity = familiarities.of(bundle, self.confidence.name)
        self.profile = profile_of(options.device)
        threads = None if options.threads is None else Threads.of(options.threads)
        choice = tuning.choose(bundle, options.vision, threads, self.profile.run.threads)
        self.backend, self.threads = choice.vision, choice.threads
        self.sequences = choice.together if options.sequences is None else options.sequences
        if self.sequences < 1:
            raise EdgeVqaError(f"{self.sequences} questions cannot be answered together", "give 1 or more")
        self.kv_type = options.kv_type or self.profile.run.kv_type
        self.prompt = _prompt(bundle, options.think)
        self.fingerprint = bundle.fingerprint_with(BACKENDS[self.backend])
        self._engine = self._load()
        manifest = bundle.manifest
        made_by = (self.backend, manifest.prompt, manifest.runtime.preprocessing, llama_cpp_version(), NAMES)
        identity = repr((self.fingerprint, *made_by))
        self._cache = PictureCache(identity, self._engine.lm.n_embd_in, options.pictures, options.cache_dir)
        if options.think and self.prompt.thinking is None:
            self.warnings.append(f"{bundle.name} does not think before it answers: --think changes nothing")
        if manifest.operating_points:
            self._warn()
        self.load_s = time.perf_counter() - began

    def _load(self) -> Engine:
        """The LM and its vision tower, if they fit into memory."""
        bundle, options, usual = self.bundle, self.options, self.profile.run
        preprocessing, role = bundle.manifest.runtime.preprocessing, BACKENDS[self.backend]
        context = usual.context_in(room_for(preprocessing)) if options.context is None else options.context
        need = memory.Need(self.backend, context, self.kv_type, self.sequences)
        if options.memory_limit is not None:
            memory.check(bundle, need, options.memory_limit)
        else:
            memory.check_free(bundle, need, usual.memory_limit)
        engine = Engine(
            bundle.files["lm"],
            bundle.files[role],
            preprocessing,
            backend=self.backend,
            context=context,
            threads=self.threads,
            kv_type=self.kv_type,
            gpu_layers=usual.gpu_layers if options.gpu_layers is None else options.gpu_layers,
            sequences=self.sequences,
        )
        template = hashlib.sha256(engine.lm.chat_template().encode()).hexdigest()
        if template != bundle.manifest.prompt.template_sha256:
            engine.close()
            raise EdgeVqaError(
                f"the prompt of {bundle.name} was not rendered from its LM's chat template", "convert the bundle again"
            )
        engine.think(self.prompt.thinking)
        return engine

    def _warn(self) -> None:
        """What may make scores differ from those that the thresholds were chosen on."""
        runtime, here = self.bundle.manifest.runtime, llama_cpp_version()
        chosen, so = f"thresholds of {self.bundle.name} were chosen with", "scores may differ slightly"
        if here != runtime.llama_cpp_python:
            self.warnings.append(f"{chosen} llama-cpp-python {runtime.llama_cpp_python}, this is {here}: {so}")
        if self.prompt != self.bundle.manifest.prompt:
            self.warnings.append(f"{chosen} another thought, or none: {so}")
        if self.backend != self.bundle.backend:
            self.warnings.append(f"{chosen} the vision backend {self.bundle.backend}, this is {self.backend}: {so}")

    @property
    def second(self) -> Session:
        """The larger model of a cascade, loaded on first use."""
        if self._second is None:
            assert self.then is not None
            store.verify(self.then)
            self._second = Session(self.then, replace(self.options, then=None, vision=None, threads=None, watch=False))
            self.warnings += self._second.warnings
        return self._second

    # -- looks --------------------------------------------------------------------------------------------------------

    def method(self, early: bool) -> tuple[Confidence, Familiarity | None]:
        """How confidence and familiarity are estimated; early: after the first token, whatever was chosen for the others."""
        if not early or self.confidence.early:
            return self.confidence, self.familiarity
        if self._early is None:
            name = SelectorEarly.name
            self._early = confidences.choose(self.bundle, name), familiarities.of(self.bundle, name)
        return self._early

    def look(
        self,
        picture: Picture,
        question: str,
        *,
        detail: str,
        gate: Gate,
        max_tokens: int | None,
        early: bool = False,
    ) -> Iterator[Token | Seen]:
        """Ask once: tokens as they come, then what came of it."""
        pieces = question_pieces(question, self.prompt)
        began = time.perf_counter()
        self.show(picture, detail)
        spent = Timings(image_s=time.perf_counter() - began)
        yield from self._asked(pieces, gate, max_tokens, early, spent)

    def look_at(
        self, key: bytes, parts: list[Part], question: str, *, gate: Gate, max_tokens: int | None, early: bool = False
    ) -> Iterator[Token | Seen]:
        """`look` at a picture that is encoded already."""
        pieces = question_pieces(question, self.prompt)
        self._open(key, parts)
        yield from self._asked(pieces, gate, max_tokens, early, Timings())

    def _asked(
        self, pieces: Sequence[Text], gate: Gate, max_tokens: int | None, early: bool, spent: Timings
    ) -> Iterator[Token | Seen]:
        """Ask about the open picture."""
        opened = time.perf_counter()
        early = self.method(early)[0].early
        trace: Trace | None = None
        first = gating = 0.0
        answered, confidence = True, 0.0
        familiarity: float | None = None
        for step in self._engine.answer(pieces, max_tokens or self.prompt.max_tokens):
            if isinstance(step, TokenTrace):
                yield Token(step.text, step.logprob)
                continue
            now = time.perf_counter()
            first = first or now
            if early == (trace is None):  # an early method decides on the first trace, any other on the last
                confidence, familiarity = self.scores(step, early)
                answered = gate.answers(confidence, familiarity)
                gating = time.perf_counter() - now
            trace = step
            if early and not answered:
                break
        assert trace is not None
        spent = replace(
            spent,
            prompt_s=first - opened,
            decode_s=time.perf_counter() - first - gating,
            gate_s=gating,
        )
        yield Seen(trace, confidence, familiarity, answered, spent)

    def scores(self, trace: Trace, early: bool = False) -> tuple[float, float | None]:
        """Confidence, and familiarity where the bundle has an estimate of it."""
        made, (confidence, familiarity) = features(trace), self.method(early)
        sure = float(confidence.score_features(made)[0])
        return sure, None if familiarity is None else float(familiarity.score_features(made)[0])

    def show(self, picture: Picture, detail: str) -> None:
        """Make the picture what the next questions are about, unless it is already."""
        key = key_of(picture, detail)
        if key != self._opened:
            self._open(key, self.encode(key, picture, detail))

    def _open(self, key: bytes, parts: list[Part]) -> None:
        if key != self._opened:
            self._opened = None
            self._engine.open_prefix(parts)
            self._opened = key

    def encode(self, key: bytes, picture: Picture, detail: str) -> list[Part]:
        """The prompt up to and including the picture, from the cache where it is there."""
        with self._encoding:
            parts = self._cache.get(key)
            if parts is None:
                manifest = self.bundle.manifest
                pieces = picture_pieces(picture, detail, manifest.prompt, manifest.runtime.preprocessing)
                parts = with_pixels(list(self._engine.embed(pieces)), pixel_statistics(picture.rgb))
                self._cache.put(key, parts)
        return parts

    def cached(self, key: bytes) -> list[Part] | None:
        """What `encode` gave for a picture, where it is still kept."""
        with self._encoding:
            return self._cache.get(key)

    def look_together(
        self,
        pictures: Sequence[list[Part]],
        asked: Sequence[tuple[int, str]],
        gate: Gate,
        max_tokens: int | None,
        *,
        early: bool = False,
        tell: Callable[[int, Token], bool] | None = None,
    ) -> list[tuple[Trace, float, float | None]]:
        """One look at several questions, each on one of the pictures (by number): traces, confidences, familiarity.

        tell: is given the tokens of question i as they come, and says whether anybody waits for more. See
        `Engine.answer_together`.
        """
        self._opened = None
        prompt = self.prompt
        pieces = [(number, question_pieces(question, prompt)) for number, question in asked]
        decided: dict[int, tuple[float, float | None]] = {}
        early = self.method(early)[0].early

        def go_on(number: int, step: TokenTrace, so_far: Callable[[], Trace]) -> bool:
            if early and number not in decided:
                decided[number] = self.scores(so_far(), early)
                if not gate.answers(*decided[number]):
                    return False
            return tell is None or tell(number, Token(step.text, step.logprob))

        traces = self._engine.answer_together(
            pictures, pieces, max_tokens or prompt.max_tokens, go_on if early or tell is not None else None
        )
        return [(trace, *(decided.get(number) or self.scores(trace, early))) for number, trace in enumerate(traces)]

    def cells(self, parts: Sequence[Part], question: str, max_tokens: int | None) -> tuple[int, int, int]:
        """Cells of the KV cache that a picture takes, a question, and the longest answer to it."""
        asked = self._engine.cells(question_pieces(question, self.prompt))
        return sum(map(cells_of, parts)), asked, self._engine.longest(max_tokens or self.prompt.max_tokens)

    def speed(self, prompt: int, answer: int) -> tuple[float, float]:
        """See `Engine.speed`."""
        self._opened = None
        return self._engine.speed(prompt, answer)

    @property
    def n_ctx(self) -> int:
        """Tokens of pictures, questions and answers that there is room for at once."""
        return self._engine.room

    @property
    def shares(self) -> bool:
        """Whether questions on one picture share its cells."""
        return self._engine.shares

    # -- drift watch --------------------------------------------------------------------------------------------------

    def count(self, confidence: float, familiarity: float | None) -> None:
        """For the drift watch, where it is on; only what calibration would have seen."""
        if self._watch:
            self._counted.append((confidence, familiarity))
            if len(self._counted) >= COUNTED_TOGETHER:
                self._write_counts()

    def _write_counts(self) -> None:
        if self._counted:
            from edge_vqa.trust import watch as watching  # only who watches needs it

            confidences, familiarity = zip(*self._counted, strict=True)
            watching.record(self.bundle, self.confidence.name, confidences, familiarity)
            self._counted = []

    def close(self) -> None:
        """Free all native memory; safe to call twice."""
        self._write_counts()
        self._engine.close()
        if self._second is not None:
            self._second.close()


def _prompt(bundle: Bundle, think: int | None) -> Prompt:
    """The bundle's prompt, with so many tokens of thought; None: as many as it says."""
    prompt = bundle.manifest.prompt
    if prompt.thinking is None or think is None:
        return prompt
    if think > 0:
        return replace(prompt, thinking=replace(prompt.thinking, most=think))
    if prompt.thinking.skip is None:
        raise EdgeVqaError(f"the chat template of {bundle.name} has no way not to think", "give --think N for a short thought")
    return replace(prompt, after=prompt.thinking.skip, thinking=replace(prompt.thinking, begun=False))
