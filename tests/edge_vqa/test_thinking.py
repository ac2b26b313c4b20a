"""Models that think before they answer. None that does is small enough to be kept: the embedded model is told that it thinks,
between two of its own special tokens, and one of random weights has a template of the usual kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa import EdgeVqaError, Model, load
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Thinking
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.llm.thinking import Thought, Tokens
from edge_vqa.pictures.open import open_picture
from tests.conftest import EXAMPLES, edit_manifest
from tests.converters.random_checkpoints import make

BEGIN, END = "<row_1_col_1>", "<row_1_col_2>"
ASKED = [(EXAMPLES / name, question) for name in ("cat.jpg", "fruit.png") for question in ("what is this?", "is it red?")]


def thinking(folder: Path, **more: Any) -> Path:
    """The embedded mini, said to think."""
    shutil.copytree(store.EMBEDDED / "mini", folder)

    def change(manifest: dict[str, Any]) -> None:
        manifest["prompt"]["thinking"] = {"begin": BEGIN, "end": END, "begun": True, "skip": None, "most": 3} | more

    edit_manifest(folder, change)
    return folder


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(thinking(tmp_path_factory.mktemp("thinker") / "mini"), kv_type="f32", sequences=4) as model:
        yield model


def decoded(model: Model, tokens: list[int], more: int) -> list[int]:
    """Greedy tokens behind these, which follow the open picture."""
    lm, prefix = model._engine.lm, model._engine._prefix
    assert prefix is not None
    lm.clear(0, prefix.next)
    made: list[int] = []
    for place in range(len(tokens) + more - 1):
        token = tokens[place] if place < len(tokens) else made[-1]
        logits, _ = lm.step([(0, prefix.next + place, token)])[0]
        if place >= len(tokens) - 1:
            made.append(int(logits.argmax()))
    return made


def test_a_thought_ends_at_its_limit_and_the_answer_begins_behind_it(thinker: Model) -> None:
    """Token by token what the LM says when the same is decoded by hand: thought, end, and line breaks included."""
    manifest = thinker.bundle.manifest
    for path, question in ASKED:
        answer = thinker.ask(path, question, gate=False, max_tokens=4)
        asked = thinker._engine.tokens(question_pieces(question, manifest.prompt))
        thought = decoded(thinker, asked, 3)
        cut = Tokens(thinker._engine.lm, manifest.prompt.thinking).cut  # type: ignore[arg-type]
        # the third token of the thought is where the limit is, and the end stands in its place
        wanted = decoded(thinker, [*asked, *thought[:2], *cut], 6)
        lm = thinker._engine.lm
        while not lm.piece(wanted[0]).strip() and not lm.is_end(wanted[0]):  # white space in front is no part of the answer
            wanted.pop(0)
        said = [token.id for token in answer.trace.tokens]
        assert said == wanted[: len(said)], question
        assert answer.trace.prompt_tokens == thinker._engine._prefix.cells + len(asked)  # type: ignore[union-attr]


def test_questions_together_think_as_one_by_one(thinker: Model) -> None:
    alone = [thinker.ask(path, question, gate=False, max_tokens=4) for path, question in ASKED]
    together = list(thinker.ask_many(ASKED, gate=False, max_tokens=4))
    assert [one.text for one in alone] == [other.text for other in together]  # type: ignore[union-attr]
    with load(thinker.bundle.folder, confidence="selector-early", sequences=4) as early:
        one = [early.ask(path, question, threshold=0.5) for path, question in ASKED]
        many = list(early.ask_many(ASKED, threshold=0.5))
    assert [answer.abstained for answer in one] == [answer.abstained for answer in many]  # type: ignore[union-attr]


def test_a_thought_that_the_model_ends_itself_costs_nothing_of_the_answer(thinker: Model) -> None:
    """Where tokens of the answer begin, for each way in which a thought may go."""
    lm = thinker._engine.lm
    tokens = Tokens(lm, Thinking(BEGIN, END, begun=False))
    red, space = lm.tokenize("red", special=False)[0], lm.tokenize("\n", special=False)[0]
    stop = lm.tokenize(thinker.bundle.manifest.prompt.stop[0], special=True)[0]
    begin, end = tokens.begin, tokens.end

    def answered(said: list[int], most: int = 50) -> list[int]:
        thought = Thought(lm, tokens, most)
        return [token for token in said if thought.after(token) is None]

    assert answered([red, red, stop]) == [red, red, stop]  # it does not think
    assert answered([begin, red, red, end, space, red, space, stop]) == [red, space, stop]
    assert answered([begin, red, stop]) == [stop]
    assert answered([begin, red, end, stop]) == [stop]
    assert answered([red, begin, red, stop]) == [red, begin, red, stop]
    cut = len(tokens.cut)
    assert answered([begin, red, *[space] * cut, red, stop], most=2) == [red, stop]


def test_a_context_too_short_for_the_thought_is_no_trouble(tmp_path: Path) -> None:
    folder = thinking(tmp_path / "mini", most=16384)
    with load(folder, context=256) as model:
        assert len(model.ask(EXAMPLES / "cat.jpg", "what is this?", gate=False).trace.tokens) >= 1
        assert len(list(model.ask_many(ASKED, gate=False))) == 4


def thoughtful(folder: Path) -> Path:
    """A random checkpoint whose template thinks unless told not to, as Qwen's do."""
    make(folder, "qwen2_vl")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    first = max(entry["id"] for entry in spec["added_tokens"]) + 1
    like = spec["added_tokens"][-1]
    spec["added_tokens"] += [like | {"id": first, "content": "<think>"}, like | {"id": first + 1, "content": "</think>"}]
    path.write_text(json.dumps(spec))
    template = (folder / "chat_template.jinja").read_text()
    opened = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    opened += "{% else %}{{ '<think>\n' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(
        template.replace("assistant\n{% endif %}", "assistant\n" + opened + "{% endif %}")
    )
    return folder


def test_a_template_that_thinks_and_can_do_without(tmp_path: Path) -> None:
    convert(thoughtful(tmp_path / "checkpoint"), tmp_path / "bundle", Options(quant="q8_0"))
    prompt = store.read(tmp_path / "bundle").manifest.prompt
    ending = "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.after == ending + "<think>\n"
    assert prompt.thinking == Thinking("<think>", "</think>", begun=True, skip=ending + "<think>\n\n</think>\n\n")
    with load(tmp_path / "bundle", think=0) as model:
        assert model.prompt.after == prompt.thinking.skip
        pieces = picture_pieces(
            open_picture(EXAMPLES / "cat.jpg"), "low", model.prompt, model.bundle.manifest.runtime.preprocessing
        )
        assert pieces and len(model.ask(EXAMPLES / "cat.jpg", "why?", gate=False, max_tokens=2).trace.tokens) == 2
    with load(tmp_path / "bundle", think=5) as model:
        assert model.prompt.thinking.most == 5  # type: ignore[union-attr]
        assert len(model.ask(EXAMPLES / "cat.jpg", "why?", gate=False, max_tokens=2).trace.tokens) == 2


def test_a_model_that_cannot_do_without_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgeVqaError, match="no way not to think"):
        load(thinking(tmp_path / "mini"), think=0)
