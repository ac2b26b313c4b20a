"""The queue before the model: fair, bounded, rounds of questions that wait together, nobody answered who has gone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from edge_vqa.answer import Answer, Token, Verdict
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import Engine
from edge_vqa.model import Model, load
from edge_vqa.serve.desk import ClosingError, Desk, FullError, Job, Told
from tests.conftest import EXAMPLES, Asked

PRICE, FACE = ((EXAMPLES / name).read_bytes() for name in ("price.png", "face.png"))


@pytest.fixture
def together() -> Iterator[Model]:
    with load("mini", sequences=4) as model:
        yield model


class Client:
    """Puts questions to a desk, and keeps what it is told."""

    def __init__(self, desk: Desk, model: Model) -> None:
        self._desk, self._model = desk, model
        self.told: queue.Queue[tuple[Job, Told]] = queue.Queue()

    def ask(
        self, image: bytes = PRICE, question: str = "how much is it?", name: str = "a", *, tokens: bool = False, **how: Any
    ) -> Job:
        job = Job(name, [image], question, self._model.plan(**how), lambda told: self.told.put((job, told)), tokens)
        self._desk.submit(job)
        return job

    def verdicts(self, n: int) -> list[tuple[Job, Answer]]:
        """The next n, in the order that they came in."""
        found: list[tuple[Job, Answer]] = []
        while len(found) < n:
            job, told = self.told.get(timeout=60)
            assert isinstance(told, Verdict), told
            found.append((job, told.answer))
        return found


@pytest.fixture
def desk(together: Model) -> Iterator[Desk]:
    made = Desk(together, waiting=40)
    yield made
    made.close()


@pytest.fixture
def client(desk: Desk, together: Model) -> Client:
    return Client(desk, together)


def test_answers_are_those_of_one_question_at_a_time(
    client: Client, together: Model, model: Model, easy_questions: list[Asked]
) -> None:
    asked = [(path.read_bytes(), question) for _, path, question, _ in easy_questions[:40]]
    with together.turn():  # they wait together
        jobs = [client.ask(image, question) for image, question in asked]
    found = dict(client.verdicts(len(jobs)))
    for job, (image, question) in zip(jobs, asked, strict=True):
        alone = model.ask(image, question)
        assert found[job].candidate == alone.candidate and found[job].confidence == pytest.approx(alone.confidence, abs=1e-3)


def test_clients_take_turns(client: Client, together: Model) -> None:
    with together.turn():
        many = [client.ask(name="greedy") for _ in range(20)]
        one = client.ask(FACE, "what is this?", name="modest")
    order = [job for job, _ in client.verdicts(21)]
    # before it: what was being answered, and what had been opened for the next round when it came
    assert order.index(one) <= 2 * together.sequences + 1 and set(order) == {*many, one}


def test_a_full_queue_says_so(client: Client, desk: Desk, together: Model) -> None:
    with together.turn(), pytest.raises(FullError):
        for _ in range(100):
            client.ask()
    with together.turn():
        assert desk.waiting >= 40
    small = Desk(together, waiting_bytes=len(PRICE) + 1)
    try:
        with together.turn(), pytest.raises(FullError):
            for _ in range(2 * together.sequences + 4):
                Client(small, together).ask()
    finally:
        small.close()


def test_nobody_is_answered_who_has_gone(client: Client, desk: Desk, together: Model) -> None:
    with together.turn():
        jobs = [client.ask(name=str(number)) for number in range(30)]
        for job in jobs[1::2]:
            job.gone = True
    stayed = [job for job, _ in client.verdicts(15)]
    assert set(stayed) == set(jobs[::2])
    client.ask()
    client.verdicts(1)
    told = [client.told.get_nowait() for _ in range(client.told.qsize())]
    assert all(isinstance(event, EdgeVqaError) for _, event in told)  # in a round already when they went


@pytest.mark.parametrize("others", [0, 3])
def test_who_goes_between_two_tokens_costs_no_more(others: int, desk: Desk, together: Model) -> None:
    heard: list[Told] = []
    over: queue.Queue[Told] = queue.Queue()

    def tell(told: Told) -> None:
        heard.append(told)
        job.gone = True
        if not isinstance(told, Token):
            over.put(told)

    job = Job("a", [PRICE], "how much is it?", together.plan(), tell, tokens=True)
    rest = Client(desk, together)
    with together.turn():
        desk.submit(job)
        for _ in range(others):
            rest.ask(FACE, "what is this?")
    assert "withdrawn" in str(over.get(timeout=60)) and [type(told) for told in heard[:-1]] == [Token]
    assert len(rest.verdicts(others)) == others


def test_each_question_is_judged_by_its_own_settings(client: Client, together: Model) -> None:
    with together.turn():
        never, default = client.ask(threshold=1.0), client.ask()
        always, early = client.ask(gate=False), client.ask(early=True)
        short, twice = client.ask(max_tokens=1), client.ask(threshold=1.0, detail="auto")
    found = dict(client.verdicts(6))
    assert found[never].abstained and found[never].candidate == "$4.50" and not found[default].abstained
    assert found[always].threshold is None and found[early].confidence_method == "selector-early"
    assert len(found[short].trace.tokens) == 1 and found[twice].detail == "high"


def test_a_picture_is_encoded_once_for_many_questions(client: Client, together: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, whole = [0], Engine.embed

    def embed(self: Engine, *pieces: Any) -> Any:
        encoded[0] += 1
        return whole(self, *pieces)

    monkeypatch.setattr(Engine, "embed", embed)
    with together.turn():
        for number in range(24):
            client.ask((PRICE, FACE)[number % 2], f"what is number {number}?")
    client.verdicts(24)
    client.ask()
    client.verdicts(1)
    assert encoded[0] == 2


def test_a_broken_picture_harms_nobody_else(client: Client, together: Model) -> None:
    with together.turn():
        good = [client.ask(name="a") for _ in range(3)]
        bad = client.ask(b"no picture", name="b")
    told = [client.told.get(timeout=60) for _ in range(4)]
    assert {job for job, event in told if isinstance(event, Verdict)} == set(good)
    ((job, event),) = [(job, event) for job, event in told if not isinstance(event, Verdict)]
    assert job is bad and "not a picture" in str(event)


def test_who_still_waits_at_the_end_is_told(together: Model) -> None:
    desk = Desk(together)
    client = Client(desk, together)
    with together.turn():
        for _ in range(20):
            client.ask()
        ending = threading.Thread(target=desk.close)
        ending.start()
        time.sleep(0.1)
    ending.join(60)
    told = [client.told.get_nowait()[1] for _ in range(client.told.qsize())]
    assert len(told) == 20 and any(isinstance(event, ClosingError) for event in told)
    assert all(isinstance(event, Verdict | ClosingError) for event in told)
    with pytest.raises(FullError):
        client.ask()
