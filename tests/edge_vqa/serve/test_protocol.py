"""OpenAI's own client, unchanged, against a real server; the plain form; what the server says of itself."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import openai
import pytest

from edge_vqa.model import Model
from tests.conftest import EXAMPLES, Run
from tests.edge_vqa.serve.conftest import Server, asked, uri

PRICE, FACE = EXAMPLES / "price.png", EXAMPLES / "face.png"
QUESTION = "how much is it?"
NEVER: dict[str, Any] = {"threshold": 1.0}


def test_an_answer_is_the_one_of_the_python_interface(server: Server, model: Model) -> None:
    here = model.ask(PRICE, QUESTION)
    reply = server.client().chat.completions.create(model="mini", messages=asked(PRICE, QUESTION), logprobs=True)
    (choice,) = reply.choices
    assert choice.message.content == here.text == "$4.50" and choice.message.refusal is None and choice.finish_reason == "stop"
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content).strip() == here.text
    assert [t.logprob for t in choice.logprobs.content] == pytest.approx([t.logprob for t in here.trace.tokens], abs=1e-4)
    assert reply.usage is not None and reply.usage.completion_tokens == len(here.trace.tokens)
    verdict = reply.edge_vqa
    assert verdict["confidence"] == pytest.approx(here.confidence, abs=1e-4) and not verdict["abstained"]
    assert (verdict["threshold"], verdict["risk_target"]) == (here.threshold, here.risk_target)


def test_an_abstention_is_a_refusal_with_empty_content(server: Server) -> None:
    create = server.client().chat.completions.create
    reply = create(model="mini", messages=asked(PRICE, QUESTION), extra_body=NEVER)
    message = reply.choices[0].message
    assert message.content == "" and message.refusal is not None and message.refusal.startswith("not answered: confidence")
    assert reply.edge_vqa["abstained"] and reply.edge_vqa["reason"] == "confidence" and "$4.50" not in reply.model_dump_json()
    reply = create(model="mini", messages=asked(PRICE, QUESTION), extra_body=NEVER | {"show_candidate": True})
    assert reply.choices[0].message.content == "" and reply.edge_vqa["candidate"] == "$4.50"


def test_a_bound_that_programs_give_out_of_habit_keeps_the_guarantee(server: Server) -> None:
    create = server.client().chat.completions.create
    assert create(model="mini", messages=asked(PRICE, QUESTION), max_tokens=300).edge_vqa["calibrated"]
    short = create(model="mini", messages=asked(PRICE, QUESTION), max_tokens=2, extra_body={"gate": False})
    assert short.choices[0].finish_reason == "length" and not short.edge_vqa["calibrated"]


def test_a_stream_says_nothing_before_the_gate_has_decided(server: Server) -> None:
    create = server.client().chat.completions.create
    kept = list(create(model="mini", messages=asked(PRICE, QUESTION), stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.content for chunk in kept if chunk.choices] == ["", "$4.50", None]
    assert kept[-1].usage is not None and kept[-2].choices[0].finish_reason == "stop" and not kept[-2].edge_vqa["abstained"]
    refused = list(create(model="mini", messages=asked(PRICE, QUESTION), stream=True, extra_body=NEVER))
    assert "$4.50" not in "".join(chunk.model_dump_json() for chunk in refused)
    assert [chunk.choices[0].delta.refusal for chunk in refused if chunk.choices[0].delta.refusal] != []


def test_provisional_tokens_come_on_request_and_early_ones_are_final(server: Server) -> None:
    create = server.client().chat.completions.create
    told = list(create(model="mini", messages=asked(PRICE, QUESTION), stream=True, extra_body={"provisional": True}))
    more = [getattr(chunk, "edge_vqa", None) or {} for chunk in told]
    assert "".join(part.get("provisional", "") for part in more) == "$4.50" and len(told) > 6
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == "$4.50"
    early = list(create(model="mini", messages=asked(PRICE, QUESTION), stream=True, extra_body={"early": True}))
    said = [chunk.choices[0].delta.content for chunk in early if chunk.choices[0].delta.content]
    assert "".join(said) == "$4.50" and len(said) > 2 and early[-1].edge_vqa["confidence_method"] == "selector-early"


def test_a_further_question_is_about_the_picture_of_an_earlier_turn(server: Server) -> None:
    messages = [
        {"role": "system", "content": "You are terse."},
        *asked(PRICE, "what is this?"),
        {"role": "assistant", "content": "a price"},
        {"role": "user", "content": QUESTION},
    ]
    reply = server.client().chat.completions.create(model="mini", messages=messages, temperature=0.7)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == "$4.50"
    assert reply.edge_vqa["ignored"] == ["temperature", "messages but the last question and the last pictures"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"messages": [{"role": "user", "content": "hello"}]}, "no message has a picture"),
    "no messages": ({"messages": []}, "messages are missing"),
    "no user": ({"messages": [{"role": "system", "content": "hello"}]}, "role user"),
    "many answers": ({"n": 2}, "one answer"),
    "a risk that there is not": ({"extra_body": {"risk": 1e-9}}, "no operating point for risk"),
    "a word for a number": ({"extra_body": {"risk": "low"}}, "risk must be a number"),
    "two gates": ({"extra_body": {"risk": 0.05, "threshold": 0.5}}, "exclude each other"),
    "no such detail": ({"extra_body": {"detail": "medium"}}, "detail 'medium' is unknown"),
    "a second look that is early": ({"extra_body": {"early": True, "detail": "auto"}}, "a second look is not taken early"),
    "no tokens": ({"max_tokens": 0}, "an answer of 0 tokens"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_openais_error_object(name: str, server: Server) -> None:
    change, said = WRONG[name]
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        server.client().chat.completions.create(**({"model": "mini", "messages": asked(PRICE, QUESTION)} | change))
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64,AAAA", "not a picture that can be read"),
        ("data:image/png;base64,?", "data URI is damaged"),
        ("/etc/passwd", "files of the server cannot be named"),
        ("file:///etc/passwd", "files of the server cannot be named"),
        ("http://169.254.169.254/latest", "--allow-urls 169.254.169.254"),
        ("http://[::1/", "a picture is a data URI"),
    ],
)
def test_what_is_no_picture_is_refused(url: str, said: str, server: Server) -> None:
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(openai.BadRequestError, match=said):
        server.client().chat.completions.create(model="mini", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item,misc]


def test_another_model_is_not_there(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError, match="the model here is 'mini'"):
        client.chat.completions.create(model="gpt-4o", messages=asked(PRICE, QUESTION))
    (model,) = client.models.list().data
    assert model.id == "mini" and client.models.retrieve("mini").id == "mini"
    assert [point["risk"] for point in model.edge_vqa["operating_points"]] == [0.01, 0.05, 0.1, 0.2]


def test_a_form_gets_what_ask_prints(server: Server, run: Run) -> None:
    command = ["curl", "-sS", "-F", f"image=@{PRICE}", "-F", f"question={QUESTION}", f"{server.address}/ask"]
    got = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    printed = json.loads(run("edge-vqa", "ask", PRICE, QUESTION, "--json").stdout)
    assert got.keys() - printed.keys() == {"verdict", "queue_s"} and not printed.keys() - got.keys()
    assert (got["answer"], got["threshold"]) == (printed["answer"], printed["threshold"])
    refused = [*command[:-1], "-F", "threshold=1", "-F", "show_candidate=true", command[-1]]
    got = json.loads(subprocess.run(refused, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert got["abstained"] and got["candidate"] == "$4.50"


def test_it_can_be_watched(server: Server) -> None:
    def get(path: str) -> str:
        return subprocess.run(["curl", "-sS", f"{server.address}{path}"], capture_output=True, text=True, check=True).stdout

    server.client().chat.completions.create(model="mini", messages=asked(FACE, "what is this?"), extra_body=NEVER)
    assert json.loads(get("/health")) == {"status": "ok"} and json.loads(get("/ready"))["model"] == "mini"
    counts = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in get("/metrics").splitlines() if line[0] != "#"}
    assert float(counts['edge_vqa_abstentions_total{reason="confidence"}']) >= 1 and counts["edge_vqa_drift"] == "-1.0"
    assert float(counts['edge_vqa_seconds_count{stage="decode"}']) == float(counts["edge_vqa_confidence_count"]) >= 1
    log = [json.loads(line) for line in server.lines if line.startswith("{")]
    last = next(line for line in reversed(log) if line["path"] == "/v1/chat/completions")
    assert (
        last["status"] == 200 and last["abstained"] and "question" not in last and "what is this" not in "".join(server.lines)
    )


def test_the_description_names_every_address(server: Server) -> None:
    done = subprocess.run(["curl", "-sS", f"{server.address}/openapi.json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["openapi"].startswith("3.1") and {"/ask", "/v1/chat/completions", "/metrics"} <= document["paths"].keys()
    assert uri(PRICE) not in done.stdout
