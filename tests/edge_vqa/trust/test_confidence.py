"""Confidence methods: each by name, on real traces, against direct calculation; the early one decides before it decodes."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from edge_vqa.answer import Answer, Token, Verdict
from edge_vqa.bundles.manifest import Temperature
from edge_vqa.bundles.store import Bundle
from edge_vqa.cli.options import ConfidenceOption
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model, load
from edge_vqa.trust import confidence
from edge_vqa.trust.trace import EARLY, features
from tests.conftest import EXAMPLES, Run

PICTURE, QUESTION = EXAMPLES / "price.png", "how much is it?"
UNKNOWN = EXAMPLES / "dark.png"


@pytest.mark.parametrize("name", confidence.METHODS)
def test_every_method_of_the_embedded_model_scores_by_name(mini: Bundle, name: str) -> None:
    if name == "temperature":
        mini = dataclasses.replace(mini, manifest=dataclasses.replace(mini.manifest, temperature=Temperature(0.6, 0.1)))
    method = confidence.choose(mini, name)
    assert method.name == name and method.early == (name == "selector-early")
    with load("mini", confidence="maxprob") as model:
        sure, unsure = (
            method.score(model.ask(image, question, gate=False).trace)
            for image, question in ((PICTURE, QUESTION), (UNKNOWN, "what is this?"))
        )
    assert 0 <= unsure < sure <= 1, (unsure, sure)


def test_intrinsic_methods_are_what_their_formulas_say(model: Model) -> None:
    trace = model.ask(UNKNOWN, "what is this?", gate=False).trace
    logprobs = [token.logprob for token in trace.tokens]
    expected = {
        "maxprob": math.exp(sum(logprobs)),
        "mean-logprob": math.exp(sum(logprobs) / len(logprobs)),
        "entropy": math.exp(-sum(token.entropy for token in trace.tokens) / len(logprobs)),
        "margin": 1 - math.exp(-min(token.margin for token in trace.tokens)),
    }
    for name, value in expected.items():
        assert confidence.INTRINSIC[name]().score(trace) == pytest.approx(value, abs=1e-6), name
    scaled = confidence.TemperatureScaling(Temperature(scale=0.5, bias=1.0)).score(trace)
    p = expected["maxprob"]
    assert scaled == pytest.approx(1 / (1 + math.exp(-(0.5 * math.log(p / (1 - p)) + 1))), abs=1e-6)


def test_methods_that_are_not_there_are_refused(mini: Bundle) -> None:
    bare = dataclasses.replace(mini, manifest=dataclasses.replace(mini.manifest, selector=None, selector_early=None))
    assert confidence.choose(bare).name == "maxprob"
    for name in ("temperature", "selector", "selector-early"):
        with pytest.raises(EdgeVqaError, match=f"has no {name}"):
            confidence.choose(bare, name)
    with pytest.raises(EdgeVqaError, match="is unknown"):
        confidence.choose(mini, "luck")
    with_temperature = dataclasses.replace(bare, manifest=dataclasses.replace(bare.manifest, temperature=Temperature(1, 0)))
    assert confidence.choose(with_temperature).name == "temperature", "better than MaxProb"


def test_early_features_are_the_same_after_one_token_as_at_the_end(model: Model) -> None:
    early, *_, whole = model._engine.answer(  # the open picture is that of the last question
        _pieces(model), 12
    )
    assert len(early.tokens) == 1 < len(whole.tokens)
    first, last = features(early), features(whole)
    assert all(np.array_equal(first[name], last[name]) for name in EARLY)
    assert not np.array_equal(first["statistics"], last["statistics"])


def _pieces(model: Model) -> list:
    from edge_vqa.llm.prompt import question_pieces

    model.ask(PICTURE, QUESTION)
    return question_pieces(QUESTION, model.bundle.manifest.prompt)


def test_the_early_method_streams_what_it_trusts_and_decodes_nothing_else() -> None:
    with load("mini", confidence="selector-early") as model:
        events = list(model.stream(PICTURE, QUESTION))
        verdict = events[-1]
        assert isinstance(verdict, Verdict) and verdict.answer.confidence_method == "selector-early"
        assert "".join(e.text for e in events[:-1] if isinstance(e, Token)).strip() == verdict.answer.text == "$4.50"
        (verdict,) = model.stream(UNKNOWN, "what is this?", threshold=0.99)
        assert isinstance(verdict, Verdict) and verdict.answer.abstained and verdict.answer.candidate == ""
        assert len(verdict.answer.trace.tokens) == 1
        always = model.ask(UNKNOWN, "what is this?", gate=False)
        assert always.text and always.confidence == pytest.approx(verdict.answer.confidence, abs=1e-6)


def test_one_question_may_be_decided_early_and_the_next_one_not(model: Model) -> None:
    with load("mini", confidence="selector-early") as always:
        early = always.ask(PICTURE, QUESTION)
    whole, now = model.ask(PICTURE, QUESTION), model.ask(PICTURE, QUESTION, early=True)
    assert (now.confidence_method, now.threshold) == (early.confidence_method, early.threshold)
    assert now.confidence == pytest.approx(early.confidence, abs=1e-6) and now.calibrated
    assert whole.confidence_method == "selector" and model.ask(PICTURE, QUESTION).confidence == whole.confidence
    (together,) = model.ask_many([(UNKNOWN, "what is this?")], early=True, threshold=0.99)
    assert isinstance(together, Answer) and together.abstained and len(together.trace.tokens) == 1
    with pytest.raises(EdgeVqaError, match="a second look is not taken early"):
        model.ask(PICTURE, QUESTION, early=True, detail="auto")


def test_ask_early_on_the_command_line(run: Run) -> None:
    answered = run("edge-vqa", "ask", PICTURE, QUESTION, "--early")
    assert (answered.returncode, answered.stdout) == (0, "$4.50\n"), answered.stderr
    abstained = run("edge-vqa", "ask", UNKNOWN, "what is this?", "--early")
    assert (abstained.returncode, abstained.stdout) == (3, ""), abstained.stderr
    assert "not answered" in abstained.stderr and "5% risk" in abstained.stderr
    as_json = json.loads(run("edge-vqa", "ask", UNKNOWN, "what is this?", "--early", "--json").stdout)
    assert as_json["answer"] is None and as_json["candidate"] is None and as_json["confidence_method"] == "selector-early"
    for more in (["--stream"], ["--show-candidate"], ["--confidence", "entropy"]):
        assert run("edge-vqa", "ask", PICTURE, QUESTION, "--early", *more).returncode == 2


def test_another_method_on_the_command_line_is_uncalibrated(run: Run) -> None:
    result = run("edge-vqa", "ask", PICTURE, QUESTION, "--confidence", "entropy")
    assert result.returncode == 0 and "uncalibrated" in result.stderr, result.stderr
    assert all(name in run("edge-vqa", "ask", "--help").stdout for name in ("selector-early", "mean-logprob"))


def test_the_help_names_every_method() -> None:
    option = next(o for o in ConfidenceOption.__metadata__ if hasattr(o, "help"))
    assert all(name in option.help for name in confidence.METHODS)
