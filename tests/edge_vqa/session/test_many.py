"""Many questions in one go, chat, second looks, memory and threads."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.answer import Answer
from edge_vqa.bundles.manifest import Cascade
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import memory, profile
from edge_vqa.llm import threads
from edge_vqa.llm.engine import room_for
from edge_vqa.model import Model, load
from edge_vqa.session.options import Options
from tests.conftest import EXAMPLES, ROOT, Asked, Run

PRICE = EXAMPLES / "price.png"


def test_questions_asked_together_get_the_answers_they_get_alone(model: Model, easy_questions: list[Asked]) -> None:
    asked = [(path, question) for _, path, question, _ in easy_questions[:300]]
    with load(sequences=8) as many:
        together = list(many.ask_many(asked, gate=False))
    alone = [model.ask(path, question, gate=False) for path, question in asked]
    same = sum(isinstance(a, Answer) and a.candidate == b.candidate for a, b in zip(together, alone, strict=True))
    assert same >= 298, f"{same} of 300: more than ties"
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a, Answer) and a.confidence == pytest.approx(b.confidence, abs=0.05)
        assert (a.trace.image_tokens, a.trace.prompt_tokens) == (b.trace.image_tokens, b.trace.prompt_tokens)


def test_what_cannot_be_asked_is_told_in_its_place(model: Model, tmp_path: Path) -> None:
    asked = [
        (PRICE, "how much is it?"),
        (tmp_path / "missing.png", "what is this?"),
        (PRICE, " "),
        (PRICE, "what? " * 2000),
        (EXAMPLES / "cat.jpg", "is it an animal?"),
    ]
    with load(sequences=4) as many:
        got = list(many.ask_many(asked))
        assert [isinstance(answer, EdgeVqaError) for answer in got] == [False, True, True, True, False]
        assert isinstance(got[0], Answer) and got[0].text == "$4.50"
        assert isinstance(many.ask(PRICE, "how much is it?"), Answer), "one question after many"


def test_a_question_that_leaves_less_room_for_the_answer_is_asked_all_the_same() -> None:
    asked = [(PRICE, "how much is it?"), (PRICE, "how much is it? " + "please " * 100), (PRICE, "how much is it?")]
    with load(sequences=4, context=512) as many:
        space = many.n_ctx - many.ask(*asked[1]).trace.prompt_tokens
        many_tokens = {"max_tokens": space + 100, "gate": False}
        alone = [many.ask(*question, **many_tokens) for question in asked]
        together = list(many.ask_many(asked, **many_tokens))
        assert [isinstance(got, Answer) and got.candidate for got in together] == [answer.candidate for answer in alone]


def test_a_picture_counts_in_every_round_that_asks_about_it() -> None:
    with load(sequences=64, context=512) as many:
        assert all(isinstance(answer, Answer) for answer in many.ask_many([(PRICE, "how much is it?")] * 128))


def test_no_more_questions_are_taken_than_a_round_ahead() -> None:
    taken = []

    def endless():  # type: ignore[no-untyped-def]
        while True:
            taken.append(1)
            yield PRICE, "how much is it?"

    with load(sequences=4) as many:
        answers = many.ask_many(endless())
        for _ in range(12):
            next(answers)
        answers.close()  # type: ignore[attr-defined]
        assert len(taken) <= 12 + 4 + 4 + 2
        assert not [thread for thread in threading.enumerate() if thread.name == "edge-vqa pictures"]
        assert many.ask(PRICE, "how much is it?").text == "$4.50"


def test_an_error_of_the_questions_themselves_comes_through() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield PRICE, "how much is it?"
        raise RuntimeError("the file ended badly")

    with load(sequences=2) as many, pytest.raises(RuntimeError, match="ended badly"):
        list(many.ask_many(broken()))


def test_an_early_method_decodes_no_answer_that_it_does_not_trust(easy_questions: list[Asked]) -> None:
    asked = [(path, question) for _, path, question, _ in easy_questions[:60]]
    with load(sequences=8, confidence="selector-early") as many:
        got = [answer for answer in many.ask_many(asked, threshold=0.95) if isinstance(answer, Answer)]
    abstained = [answer for answer in got if answer.abstained]
    assert abstained and len(abstained) < len(got)
    assert all(len(answer.trace.tokens) == 1 and not answer.candidate for answer in abstained)
    assert any(len(answer.trace.tokens) > 1 for answer in got)


def test_chat_answers_line_by_line_and_goes_on_after_an_error(run: Run) -> None:
    said = "how much is it?\n" + "what? " * 2000 + "\nis it an animal?\n\nnever asked\n"
    done = run("edge-vqa", "chat", str(PRICE), "--json", input=said)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and len(lines) == 2
    assert lines[0]["answer"] == "$4.50"
    assert done.stderr.count("\n") == 1 and "the question needs" in done.stderr
    assert run("edge-vqa", "chat", str(PRICE), input="how much is it?\n").returncode == 0


def test_auto_looks_closer_only_where_the_first_look_abstains(model: Model) -> None:
    sure = model.ask(PRICE, "how much is it?", detail="auto")
    assert (sure.detail, sure.trace.image_tokens) == ("low", 16) and not sure.calibrated
    unsure = model.ask(PRICE, "how much is it?", detail="auto", threshold=1.0)
    assert (unsure.detail, unsure.abstained) == ("high", True) and unsure.trace.image_tokens > 16
    low, high = (model.ask(PRICE, "how much is it?", detail=detail, threshold=1.0) for detail in ("low", "high"))
    assert unsure.confidence == high.confidence != low.confidence
    with load(sequences=4) as many:
        (answer,) = many.ask_many([(PRICE, "how much is it?")], detail="auto", threshold=1.0)
        assert isinstance(answer, Answer) and answer.detail == "high"


def test_operating_points_of_two_looks_are_those_of_the_pair(mini: Bundle) -> None:
    point = dataclasses.replace(mini.manifest.points("selector")[0], threshold=0.25, default=True)
    cascade = Cascade(mini.pair(mini), "high", (point,))
    changed = dataclasses.replace(mini, manifest=dataclasses.replace(mini.manifest, cascades=(cascade,)))
    with Model(changed) as model:
        plan = model.plan(detail="auto")
        assert (plan.gate.threshold, plan.gate.calibrated) == (0.25, True)
        assert not model.plan(detail="auto", max_tokens=1).gate.calibrated
        assert model.plan().gate.threshold == mini.manifest.default_point("selector").threshold  # type: ignore[union-attr]


def test_the_larger_bundle_is_loaded_by_the_first_question_that_needs_it(mini: Bundle, f32_bundle: Bundle) -> None:
    with load(then=f32_bundle.folder) as model:
        assert model.ask(PRICE, "how much is it?").model == "mini"
        assert model._second is None, "loaded for nothing"
        answer = model.ask(PRICE, "how much is it?", threshold=1.0)
        assert (answer.model, answer.confidence_method) == (f32_bundle.name, "maxprob")
        assert not model.ask(PRICE, "how much is it?").calibrated, "no threshold was chosen for this pair"
        with pytest.raises(EdgeVqaError, match="give one of them"):
            model.ask(PRICE, "how much is it?", detail="auto")


def usual(bundle: Bundle) -> memory.Need:
    return memory.Need("mtmd", room_for(bundle.manifest.runtime.preprocessing))


def test_too_little_memory_is_told_before_anything_is_loaded(mini: Bundle, run: Run) -> None:
    done = run("edge-vqa", "ask", str(PRICE), "how much is it?", "--memory-limit", "50")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "the limit is 50 MB" in done.stderr
    fits = memory.plan(mini, usual(mini)).total
    with load(memory_limit=fits) as model:
        assert model.ask(PRICE, "how much is it?").text == "$4.50"


def test_what_does_not_fit_into_the_free_memory_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: (10**9, 60 * 10**6))
    with pytest.raises(EdgeVqaError, match=r"60 MB are free and \d+ MB of them"):
        load()
    with load(memory_limit=10**9) as model:  # who says so is believed
        assert model.ask(PRICE, "how much is it?").text == "$4.50"
    monkeypatch.setattr(memory, "memory_bytes", lambda: None)
    load().close()


def test_the_plan_of_memory_is_near_what_is_used(mini: Bundle, run: Run) -> None:
    code = (
        "import edge_vqa; edge_vqa.load().ask('examples/price.png', 'how much is it?'); print(open('/proc/self/status').read())"
    )
    peak = next(line for line in run("python", "-c", code, cwd=ROOT).stdout.splitlines() if line.startswith("VmHWM"))
    used = 1024 * int(peak.split()[1])
    planned = memory.plan(mini, usual(mini)).total
    assert 0.8 < planned / used < 1.5, f"planned {planned / 1e6:.0f} MB, used {used / 1e6:.0f} MB"


def system(root: Path, cpus: dict[int, tuple[str, int]], quota: str = "") -> Path:
    """A sysfs, below root: cpu -> (thread siblings, capacity)."""
    for cpu, (siblings, capacity) in cpus.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(siblings + "\n")
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
    if quota:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    return root


@pytest.mark.parametrize(
    ("cpus", "quota", "expected"),
    [
        ({i: (f"{i}", 1024) for i in range(4)}, "", 4),  # Raspberry Pi
        ({i: (f"{i % 4},{i % 4 + 4}", 1024) for i in range(8)}, "", 4),  # hyper-threads
        ({i: (f"{i}", 414 if i < 4 else 1024) for i in range(8)}, "", 4),  # big.LITTLE
        ({i: (f"{i}", 1024) for i in range(8)}, "max 100000", 8),
        ({i: (f"{i}", 1024) for i in range(8)}, "250000 100000", 2),
        ({i: (f"{i}", 1024) for i in range(8)}, "50000 100000", 1),  # half a core
        ({i: (f"{i}", 1024) for i in range(8)}, "nonsense", 8),
        ({}, "", 6),  # a system that tells nothing
    ],
)
def test_threads_are_physical_cores_that_may_be_used(
    cpus: dict[int, tuple[str, int]], quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus) or set(range(6)), raising=False)
    assert profile.cores(system(tmp_path, cpus, quota)) == expected


def test_impossible_options_are_refused() -> None:
    for options in (Options(threads=0), Options(sequences=0), Options(threads=threads.Threads(1, 0, 1))):
        with pytest.raises(EdgeVqaError):
            load(**dataclasses.asdict(options) | {"threads": options.threads})
