"""The queue before the model: bounded, fair between clients, and answered in rounds of questions that wait together.

Two threads work it. One opens and encodes the pictures of the next round while the other decodes this one. A question that
nobody waits for any more is dropped before its turn, or between two tokens.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from edge_vqa.answer import Token, Verdict
from edge_vqa.device.profile import cores
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from edge_vqa.pictures.open import open_picture
from edge_vqa.session import many
from edge_vqa.session.many import Item
from edge_vqa.session.plan import Plan, judge
from edge_vqa.session.session import Seen
from edge_vqa.trust.trace import Timings
from edge_vqa.vision.cache import key_of

WAITING = 128  # questions; those of the round that is decoded, and of the next one, are not counted
WAITING_BYTES = 256 * 2**20  # of pictures that wait
TIDY = 500  # questions after which freed memory goes back to the system
KNOWN = 256  # pictures whose key is remembered: they need not be opened to be found encoded

Told: TypeAlias = Token | Verdict | EdgeVqaError


class FullError(Exception):
    """Too much waits already."""


class ClosingError(EdgeVqaError):
    """The server ends before a question's turn."""


class BrokenError(EdgeVqaError):
    """What should not happen."""


@dataclass(eq=False)
class Job:
    """A question on its way. client: whose it is; images: files as they came; tell: called by another thread, with tokens as
    they come, if they are wanted, and at last with a Verdict or an error. gone: nobody waits for it any more."""

    client: str
    images: Sequence[bytes]
    question: str
    plan: Plan
    tell: Callable[[Told], None]
    tokens: bool = False
    gone: bool = False
    arrived: float = field(default_factory=time.perf_counter)
    begun: float | None = None

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.images))
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(hashlib.sha256(image).digest())
        self.digest = digest.digest()


class Desk:
    """Takes questions from any thread. Owns its two threads until `close()`; the model is the caller's."""

    def __init__(self, model: Model, *, waiting: int = WAITING, waiting_bytes: int = WAITING_BYTES) -> None:
        self._model, self._most, self._most_bytes = model, waiting, waiting_bytes
        self._ahead = cores() >= model.threads.vision + model.threads.decode
        self._change = threading.Condition()
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by client, whose turn it is first
        self._count = self._bytes = 0
        self._ready: deque[tuple[Job, Item]] = deque()
        self._keys: OrderedDict[tuple[bytes, str], bytes] = OrderedDict()
        self._closing = False
        self._threads = [
            threading.Thread(target=work, name=f"edge-vqa {name}", daemon=True)
            for name, work in (("pictures", self._open_pictures), ("answers", self._answer))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Questions that wait for their turn."""
        return self._count + len(self._ready)

    def submit(self, job: Job) -> None:
        """Put a question at the end of its client's. Raises FullError."""
        with self._change:
            if self._full(job):
                self._leave_out_who_has_gone()
                if self._full(job):
                    raise FullError
            self._waiting.setdefault(job.client, deque()).append(job)
            self._count += 1
            self._bytes += job.size
            self._change.notify_all()

    def _full(self, job: Job) -> bool:
        return self._closing or self._count >= self._most or (self._count > 0 and self._bytes + job.size > self._most_bytes)

    def _leave_out_who_has_gone(self) -> None:
        left = {client: deque(job for job in jobs if not job.gone) for client, jobs in self._waiting.items()}
        self._waiting = OrderedDict((client, jobs) for client, jobs in left.items() if jobs)
        self._count = sum(map(len, self._waiting.values()))
        self._bytes = sum(job.size for jobs in self._waiting.values() for job in jobs)

    def close(self) -> None:
        """Answer what is being answered, and no more."""
        with self._change:
            self._closing = True
            left = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            self._count = self._bytes = 0
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        for job in [*left, *(job for job, _ in self._ready)]:
            job.tell(ClosingError("the server is shutting down", "ask again later"))

    # -- pictures -----------------------------------------------------------------------------------------------------

    def _open_pictures(self) -> None:
        last = b""
        while (job := self._next(last)) is not None:
            last, job.begun = job.digest, time.perf_counter()
            images, job.images = job.images, ()
            if job.gone:
                continue
            item = Item(job.question, tell=lambda token, job=job: self._tell(job, token))  # type: ignore[misc]
            try:
                self._see(job, item, images)
            except EdgeVqaError as error:
                job.tell(error)
                continue
            except Exception as error:
                job.tell(_internal(error))
                continue
            item.image_s = time.perf_counter() - job.begun
            with self._change:
                self._ready.append((job, item))
                self._change.notify_all()

    def _next(self, last: bytes) -> Job | None:
        """The next question, once there is one and the next round has room: of clients in turn, but within a round those on the
        picture just seen go first. None when it is over."""
        with self._change:
            while not self._closing and (not self._count or len(self._ready) >= self._model.sequences):
                self._change.wait()
            if self._closing:
                return None
            first = next(iter(self._waiting))
            same = (name for name, jobs in self._waiting.items() if jobs[0].digest == last)
            client = next(same, first) if self._ready else first
            jobs = self._waiting.pop(client)
            job = jobs.popleft()
            if jobs:
                self._waiting[client] = jobs
            self._count -= 1
            self._bytes -= job.size
            return job

    def _see(self, job: Job, item: Item, images: Sequence[bytes]) -> None:
        """Open the picture, and where there are cores for it encode it; what was encoded before need not be opened."""
        look = job.plan.looks[0]
        known = (job.digest, look.detail)
        if len(job.plan.looks) == 1 and known in self._keys:
            self._keys.move_to_end(known)
            item.key = self._keys[known]
            item.parts = look.session.cached(item.key)
        if item.parts is None:
            item.picture = open_picture(list(images))
            item.key = self._keys[known] = key_of(item.picture, look.detail)
            if len(self._keys) > KNOWN:
                self._keys.popitem(last=False)
            if self._ahead:
                item.parts = look.session.encode(item.key, item.picture, look.detail)
        if item.parts is not None and len(job.plan.looks) == 1:
            item.picture = None  # megabytes

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        answered = 0
        while group := self._round():
            try:
                with self._model.turn():
                    for fitting in many.rounds((item for _, item in group), group[0][0].plan.looks[0], group[0][0].plan):
                        jobs = [job for job, item in group if any(item is other for other in fitting)]
                        self._ask(jobs, fitting)
            except Exception as error:
                said = error if isinstance(error, EdgeVqaError) else _internal(error)
                for job, item in group:
                    if item.answer is None:
                        job.tell(said)
            answered += len(group)
            if answered >= TIDY:
                _give_back()
                answered = 0

    def _round(self) -> list[tuple[Job, Item]]:
        """What is asked next, all with the same settings; empty when it is over."""
        with self._change:
            while True:
                while not self._closing and not self._ready:
                    self._change.wait()
                if self._closing:
                    return []
                ready = [(job, item) for job, item in self._ready if not job.gone]
                group = [(job, item) for job, item in ready if job.plan == ready[0][0].plan][: self._model.sequences]
                taken = {id(job) for job, _ in group}
                self._ready = deque(pair for pair in ready if id(pair[0]) not in taken)
                self._change.notify_all()
                if group:
                    return group

    def _ask(self, jobs: Sequence[Job], items: list[Item]) -> None:
        """Ask what fits into one context, and tell what came of it."""
        plan = jobs[0].plan
        if len(items) == 1 and len(plan.looks) == 1 and items[0].answer is None:
            _alone(items[0], plan)
        else:
            many.answer(items, plan)
        for job, item in zip(jobs, items, strict=True):
            assert item.answer is not None
            job.tell(item.answer if isinstance(item.answer, EdgeVqaError) else Verdict(item.answer))

    def _tell(self, job: Job, token: Token) -> bool:
        if job.tokens and not job.gone:
            job.tell(token)
        return not job.gone


def _alone(item: Item, plan: Plan) -> None:
    """One question by itself: its picture stays in the KV cache for the next one."""
    look, began = plan.looks[0], time.perf_counter()
    assert item.parts is not None
    steps = look.session.look_at(
        item.key, item.parts, item.question, gate=plan.gate, max_tokens=plan.max_tokens, early=plan.early
    )
    for step in steps:
        if isinstance(step, Seen):
            total = item.image_s + time.perf_counter() - began
            spent = replace(step.timings.plus(Timings(image_s=item.image_s)), total_s=total)
            item.answer = judge(plan, look, step.trace, step.confidence, step.familiarity, spent)
        elif item.tell is not None and not item.tell(step):
            item.answer = many.withdrawn()
            return


def _give_back() -> None:
    """The C library keeps what was freed between what is in use: of a thousand requests 64 kB, for good, unless told."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(2**20)


def _internal(error: Exception) -> BrokenError:
    return BrokenError(f"internal error ({type(error).__name__}: {str(error)[:200]})", "report it")
