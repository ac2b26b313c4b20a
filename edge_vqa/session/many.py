"""Many questions in one go: pictures are opened, and where cores allow encoded, while earlier questions are decoded together.

A thread works ahead by a round, no further: memory stays bounded however many questions come.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from edge_vqa.answer import Answer, Token
from edge_vqa.device.profile import cores
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.prompt import clean_question
from edge_vqa.pictures.open import ImageSource, Picture, open_picture
from edge_vqa.session.plan import Look, Plan, judge
from edge_vqa.session.session import Session
from edge_vqa.trust.trace import Timings
from edge_vqa.vision.cache import key_of
from edge_vqa.vision.tokens import Part


@dataclass
class Item:
    """A question on its way. `answer`: what came of it so far. `tell`: is given the tokens of the last look as they come, and
    says whether anybody waits for more. `cut`: it is not decoded together with the one before."""

    question: str
    picture: Picture | None = None
    key: bytes = b""
    parts: list[Part] | None = None
    image_s: float = 0.0
    answer: Answer | EdgeVqaError | None = None
    tell: Callable[[Token], bool] | None = None
    cut: bool = False


def run(
    session: Session, asked: Iterable[tuple[ImageSource, str]], plan: Plan, cuts: Container[int] = ()
) -> Iterator[Answer | EdgeVqaError]:
    """See `Model.ask_many`; it is this session's turn."""
    first = plan.looks[0]
    ahead = cores() >= session.threads.vision + session.threads.decode
    with closing(_prepared(first, asked, session.sequences, cuts, encode=ahead)) as items:
        for group in rounds(items, first, plan):
            answer(group, plan)
            for item in group:
                assert item.answer is not None
                yield item.answer


def answer(group: list[Item], plan: Plan) -> None:
    """Ask questions together that fit into one context (`rounds`), and again where the first look abstains."""
    first, *more = plan.looks
    _ask(group, first, plan)
    for look in more:
        again = [item for item in group if isinstance(item.answer, Answer) and item.answer.abstained]
        # another model, or another detail: from the pixels on, one round after the other
        for item in again:
            assert item.picture is not None
            item.key, item.parts = key_of(item.picture, look.detail), None
        for following in rounds(iter(again), look, plan):
            _ask(following, look, plan)


def withdrawn() -> EdgeVqaError:
    """What comes of a question whose `tell` said that nobody waits for it."""
    return EdgeVqaError("the question was withdrawn", "ask it again")


def _prepared(
    look: Look, asked: Iterable[tuple[ImageSource, str]], ahead: int, cuts: Container[int], *, encode: bool
) -> Generator[Item]:
    """Items with their picture opened (and encoded), by a thread that is at most `ahead` questions ahead."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        last: tuple[object, Picture, bytes] | None = None
        try:
            for number, (image, question) in enumerate(asked):
                if stopped.is_set():
                    return
                item = Item(question, cut=number in cuts)
                try:
                    clean_question(question)
                    began, stamp = time.perf_counter(), _stamp(image)
                    if last is None or stamp is None or last[0] != stamp:
                        picture = open_picture(image)
                        last = (stamp, picture, key_of(picture, look.detail))
                    _, item.picture, item.key = last
                    if encode:
                        item.parts = look.session.encode(item.key, item.picture, look.detail)
                    item.image_s = time.perf_counter() - began
                except EdgeVqaError as error:
                    item.answer = error
                put(item)
            put(None)
        except BaseException as error:  # of `asked`: raised where the answers are read
            put(error)

    thread = threading.Thread(target=work, name="edge-vqa pictures", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _stamp(image: ImageSource) -> object:
    """What stays the same while a file does; None for anything that is opened anew each time."""
    if not isinstance(image, str | Path):
        return None
    try:
        state = Path(image).stat()
    except (OSError, ValueError):
        return None
    return str(image), state.st_mtime_ns, state.st_size


def rounds(items: Iterator[Item], look: Look, plan: Plan) -> Iterator[list[Item]]:
    """Items that fit into one context together, in order. Where the longest answer would not, one is alone; one that is too
    long itself carries its error."""
    group: list[Item] = []
    taken = 0
    for item in items:
        alone, question = _sized(item, look, plan)
        there = look.session.shares and any(other.key == item.key for other in group)  # its cells are
        picture = 0 if there else alone
        if group and (item.cut or taken + picture + question >= look.session.n_ctx):
            yield group
            group, taken, picture = [], 0, alone
        group.append(item)
        taken += picture + question
        if len(group) >= look.session.sequences:
            yield group
            group, taken = [], 0
    if group:
        yield group


def _sized(item: Item, look: Look, plan: Plan) -> tuple[int, int]:
    """Cells of the picture, and of question and answer; what cannot be asked is marked, and takes none."""
    if isinstance(item.answer, EdgeVqaError):
        return 0, 0
    began = time.perf_counter()
    try:
        if item.parts is None:
            assert item.picture is not None
            item.parts = look.session.encode(item.key, item.picture, look.detail)
            item.image_s += time.perf_counter() - began
        picture, question, longest = look.session.cells(item.parts, item.question, plan.max_tokens)
        if picture + question >= look.session.n_ctx:
            raise EdgeVqaError(
                f"picture and question need {picture + question} tokens, the context holds {look.session.n_ctx}",
                "ask a shorter question, or use --detail low",
            )
        return picture, question + longest
    except EdgeVqaError as error:
        item.answer = error
        return 0, 0


def _ask(group: list[Item], look: Look, plan: Plan) -> None:
    """One look at the questions of a round together. Each takes an equal share of the round's time."""
    began = time.perf_counter()
    asked = [item for item in group if not isinstance(item.answer, EdgeVqaError)]
    if not asked:
        return
    pictures: dict[bytes, list[Part]] = {}
    for item in asked:
        assert item.parts is not None
        pictures[item.key] = item.parts
    numbers = {key: number for number, key in enumerate(pictures)}
    left: set[int] = set()

    def tell(number: int, token: Token) -> bool:
        item = asked[number]
        if item.tell is not None and not item.tell(token):
            left.add(number)
        return number not in left

    seen = look.session.look_together(
        list(pictures.values()),
        [(numbers[item.key], item.question) for item in asked],
        plan.gate,
        plan.max_tokens,
        early=plan.early,
        tell=tell if look is plan.looks[-1] and any(item.tell for item in asked) else None,
    )
    share = (time.perf_counter() - began) / len(asked)
    for number, (item, (trace, confidence, familiarity)) in enumerate(zip(asked, seen, strict=True)):
        if number in left:
            item.answer = withdrawn()
            continue
        before = item.answer.timings if isinstance(item.answer, Answer) else Timings()
        spent = replace(before, image_s=item.image_s, decode_s=before.decode_s + share)
        spent = replace(spent, total_s=spent.image_s + spent.decode_s)
        item.answer = judge(plan, look, trace, confidence, familiarity, spent)
