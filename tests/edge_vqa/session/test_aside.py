"""Asking from an asyncio loop, which goes on meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from edge_vqa.answer import Token, Verdict
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from tests.conftest import EXAMPLES

PRICE, QUESTION = EXAMPLES / "price.png", "how much is it?"


def test_many_ask_at_once_and_the_loop_goes_on(model: Model) -> None:
    async def ask() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        answers = await asyncio.gather(*(model.aask(PRICE, QUESTION) for _ in range(8)))
        ticking.cancel()
        assert {answer.text for answer in answers} == {model.ask(PRICE, QUESTION).text} and ticks > 8

    asyncio.run(ask())


def test_tokens_come_one_by_one_and_a_verdict_last(model: Model) -> None:
    async def listen() -> list[object]:
        return [event async for event in model.astream(PRICE, QUESTION)]

    *tokens, last = asyncio.run(listen())
    assert all(isinstance(token, Token) for token in tokens) and isinstance(last, Verdict)
    assert "".join(token.text for token in tokens if isinstance(token, Token)).strip() == last.answer.candidate


def test_errors_are_those_of_ask(model: Model) -> None:
    for image, question, said in (("nowhere.png", QUESTION, "nowhere.png"), (PRICE, " ", "question")):
        with pytest.raises(EdgeVqaError, match=said):
            asyncio.run(model.aask(image, question))


def test_who_is_cancelled_or_leaves_ends_the_question_and_the_model_answers_on(model: Model) -> None:
    async def leave() -> None:
        events = model.astream(PRICE, QUESTION)
        assert isinstance(await anext(events), Token)
        await events.aclose()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await model.aask(PRICE, QUESTION)

    asyncio.run(leave())
    assert model.ask(PRICE, QUESTION).text == "$4.50"
