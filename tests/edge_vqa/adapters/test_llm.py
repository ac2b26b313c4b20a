"""The real `llm` program finds our bundles, asks them, and shows the verdict."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES, Run

PHOTO = EXAMPLES / "cat.jpg"


@pytest.fixture
def ask(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run("llm", *arguments, stdin=subprocess.DEVNULL)

    return call


def test_answers_are_those_of_ask_with_the_verdict_behind_them(ask: Run, run: Run) -> None:
    for more in ((), ("--threshold", "0.01"), ("--no-gate",)):
        ours = run("edge-vqa", "ask", PHOTO, "what is this?", "--model", "mini", *more)
        options = {(): (), ("--no-gate",): ("-o", "gate", "false")}.get(more, ("-o", "threshold", "0.01"))
        theirs = ask("-m", "edge-vqa/mini", "-a", PHOTO, *options, "what is this?")
        assert theirs.returncode == 0, theirs.stderr
        assert theirs.stdout == ours.stdout + ours.stderr, "an answer, then the verdict; or the verdict alone"
    assert "edge-vqa/mini" in ask("models").stdout


def test_a_further_question_is_about_the_same_picture_and_the_log_has_the_verdict(ask: Run, run: Run) -> None:
    bare = ("-o", "verdict", "false", "-o", "gate", "false")
    assert ask("-m", "edge-vqa/mini", "-a", PHOTO, *bare, "what is this?").returncode == 0
    second = ask("-c", *bare, "is there a dog?")
    ours = run("edge-vqa", "ask", PHOTO, "is there a dog?", "--model", "mini", "--no-gate", "--json")
    assert second.stdout.strip() == json.loads(ours.stdout)["answer"], second.stderr
    logged = json.loads(ask("logs", "-n", "1", "--json").stdout)[0]["response_json"]
    assert {key: value for key, value in logged.items() if key != "timings"} == {
        key: value for key, value in json.loads(ours.stdout).items() if key != "timings"
    }


def test_asyncio_says_the_same() -> None:
    import llm

    async def both() -> tuple[str, str]:
        attached = [llm.Attachment(path=str(PHOTO))]
        later = await llm.get_async_model("edge-vqa/mini").prompt("what is this?", attachments=attached)
        return await later.text(), llm.get_model("edge-vqa/mini").prompt("what is this?", attachments=attached).text()

    one, other = asyncio.run(both())
    assert one == other and ("confidence" in one or "not answered" in one)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hello",), "there is no picture: attach one"),
        (("-a", PHOTO, "-s", "be kind", "what is this?"), "follows no system prompt"),
        (("-a", PHOTO, "-o", "threshold", "3", "what is this?"), "is not a probability"),
        (("-a", PHOTO, " "), "question is empty"),
        (("-a", EXAMPLES / "questions.jsonl", "what is this?"), "does not support attachments of type"),
    ],
)
def test_what_cannot_be_asked_is_one_line(ask: Run, arguments: tuple[object, ...], said: str) -> None:
    done = ask("-m", "edge-vqa/mini", *arguments)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
