"""Recovery: what is learned from, what torch computes, what is stored, and what happens when it goes wrong."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import ggml
from converters.compare import compare
from converters.convert import convert
from converters.decoder import weights_of
from converters.files import parts, writer
from converters.method import lm_entries, parse_quant
from converters.options import RECOVER_BY, Options, Recovery
from converters.recovery import asked, closed_form, training
from converters.recovery.asked import Shown
from converters.recovery.student import SCALES, Student, scaled, teacher
from converters.recovery.training import Training
from converters.source import Model, opened
from edge_vqa import EdgeVqaError
from edge_vqa.bundles import store
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.pictures.open import open_picture
from edge_vqa.work import questions as files
from tests.conftest import CHECKPOINT, Asked, Run, one_line


def strange(number: int, question: str) -> str:
    """Worded so that the model is not sure of itself: of what it is sure of, rounding takes nothing."""
    return ("how come {}", "welche form ist das?", "and what is it for? {}", "how many of them, and {}")[number % 4].format(
        question
    )


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bf16") / "bf16"
    convert(CHECKPOINT, path, Options(quant="bf16", vision_type="f16", max_tokens=12))
    return path


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, easy_questions: list[Asked]) -> Path:
    """Questions without answers, on a few dozen pictures."""
    path = tmp_path_factory.mktemp("unlabelled") / "questions.jsonl"
    lines = [
        json.dumps({"question_id": str(number), "image": str(picture), "question": strange(number, question)})
        for number, (_, picture, question, _) in enumerate(easy_questions[:200])
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with opened(CHECKPOINT, Options(max_tokens=12)) as found:
        yield found


@pytest.fixture(scope="module")
def rows(bf16: Path, model: Model, unlabelled: Path) -> list[Shown]:
    bundle = store.read(bf16)
    return asked.collect(
        bundle.files["lm"], bundle.files["vision"], "mtmd", model.preprocessing, model.prompt, files.read(unlabelled), 1
    )


def test_torch_says_what_llama_cpp_says_of_every_question_behind_a_picture(
    bf16: Path, model: Model, rows: list[Shown], unlabelled: Path
) -> None:
    bundle, questions = store.read(bf16), files.read(unlabelled)
    lm = teacher(model.lm)
    engine = Engine(bundle.files["lm"], bundle.files["vision"], model.preprocessing, threads=1)
    try:
        for (path, group), row in list(zip(asked.grouped(questions).items(), rows, strict=True))[:4]:
            engine.open_prefix(engine.embed(picture_pieces(open_picture(path), "low", model.prompt, model.preprocessing)))
            with torch.no_grad():
                ours = lm.logits(lm([row])[row.places]).log_softmax(-1)
            for number, question in enumerate(group):
                own = row.question == number
                theirs = engine.score(question_pieces(question.question, model.prompt), row.said[own].tolist())
                assert np.abs(ours[own].exp().numpy() - np.exp(theirs)).max() < 0.02
                assert (ours[own].argmax(-1) == row.said[own]).float().mean() > 0.6, "the teacher's own greedy answer"
    finally:
        engine.close()


@pytest.mark.parametrize("type_", sorted(SCALES))
def test_a_gain_goes_into_the_scales_of_a_block(type_: str) -> None:
    rng = np.random.default_rng(0)
    data = ggml.quantise(rng.normal(0, 0.05, (3, 512)).astype(np.float32), type_)
    gains = rng.uniform(0.8, 1.25, (3, 512 // ggml.block(type_)[0])).astype(np.float32)
    expected = ggml.dequantise(data, type_) * np.repeat(gains, ggml.block(type_)[0], 1)
    np.testing.assert_allclose(ggml.dequantise(scaled(data, type_, gains), type_), expected, rtol=4e-3, atol=2e-4)


@pytest.mark.parametrize("held", [True, False])
def test_what_is_stored_is_what_was_trained(model: Model, rows: list[Shown], held: bool) -> None:
    entries = lm_entries(model.lm, parse_quant("rtn:q4_0"), 1, {})
    student = Student(
        model.lm, {entry.name: entry.type for entry in entries}, {entry.name: entry.coder for entry in entries}, held=held
    )
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith("gains") or "vectors" in name:
                parameter *= 1 + 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        student.settle()
        states = student(rows[:2])
    stored = dict(student.stored())
    types = {entry.name: entry.type for entry in entries}

    def read(name: str, values: np.ndarray) -> np.ndarray:
        data = stored.get(name)
        return values if data is None else data if data.dtype == np.float32 else ggml.dequantise(data, types[name])

    read_back = {
        name: replace(part, read=lambda name=name, part=part: read(name, part.read()))  # type: ignore[misc]
        for name, part in model.lm.tensors.items()
    }
    with torch.no_grad():
        again = teacher(replace(model.lm, tensors=read_back))(rows[:2])
    assert ((again - states).norm() / states.norm()) < 2e-3


@pytest.mark.parametrize("way", RECOVER_BY)
def test_recovery_brings_a_rounded_lm_nearer_to_the_float_one(
    way: str, bf16: Path, unlabelled: Path, easy_questions: list[Asked], tmp_path: Path
) -> None:
    told: list[str] = []
    # a block of q2_k is a whole row here: without training, that is no room for a solution
    quant = "rtn3:q4_0" if way == "closed-form" else "rtn:q2_k"
    plain = Options(quant=quant, max_tokens=12, vision_type="f16")
    convert(CHECKPOINT, tmp_path / "plain", plain)
    recovering = replace(plain, recover=Recovery(unlabelled, way, 0.3))
    manifest = convert(CHECKPOINT, tmp_path / "recovered", recovering, notice=told.append)
    assert manifest.quantisation.method == quant.split(":")[0] + "+recovered" and told[-1].startswith("recovered in ")
    assert not list(tmp_path.glob(".recovered*")), "nothing is left beside the bundle"
    lines = [
        json.dumps(
            {"question_id": f"{number}", "image": str(picture), "question": strange(number, question), "answers": [answer]}
        )
        for number, (_, picture, question, answer) in enumerate(easy_questions[400:520])
    ]
    (tmp_path / "others.jsonl").write_text("\n".join(lines) + "\n")
    bundles = [store.read(path) for path in (bf16, tmp_path / "plain", tmp_path / "recovered")]
    _, rounded, recovered = compare(bundles[0], bundles[1:], files.read(tmp_path / "others.jsonl", labelled=True))
    assert recovered.lm_bytes == rounded.lm_bytes, "ordinary types, of the same size"
    assert recovered.kl.value < 0.8 * rounded.kl.value


def test_an_interrupted_recovery_goes_on(model: Model, rows: list[Shown], tmp_path: Path) -> None:
    entries = lm_entries(model.lm, parse_quant("rtn:q4_0"), 1, {})
    types, coders = {entry.name: entry.type for entry in entries}, {entry.name: entry.coder for entry in entries}

    class StopHereError(Exception):
        pass

    def stop(step: str, done: int, total: int) -> None:
        if list(tmp_path.glob("latest-*")):
            raise StopHereError

    told: list[str] = []

    def again() -> Training:
        return Training(model.lm, model.lm, types, coders, rows, way="weights", minutes=0.2, folder=tmp_path, key="x")

    with pytest.raises(StopHereError):
        again().run(progress=stop)
    _, recovered = again().run(notice=told.append)
    assert told[0].startswith("going on after ") and recovered.after[0] <= recovered.before[0]


def test_of_a_training_that_diverges_the_last_good_state_is_kept(
    model: Model, rows: list[Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "RATES", {"weights": 10.0, "gains": 10.0, "vectors": 10.0})
    entries = lm_entries(model.lm, parse_quant("rtn:q4_0"), 1, {})
    types, coders = {entry.name: entry.type for entry in entries}, {entry.name: entry.coder for entry in entries}
    student, recovered = Training(
        model.lm, model.lm, types, coders, rows, way="gains", minutes=0.2, folder=tmp_path, key="x"
    ).run()
    assert recovered.diverged and "last good state was kept" in str(recovered)
    assert recovered.after[0] <= recovered.before[0]
    assert all(torch.isfinite(parameter).all() for parameter in student.parameters())


def test_gains_in_closed_form_are_those_of_least_squares() -> None:
    rng = torch.Generator().manual_seed(0)
    x, values, wanted = (torch.randn(*shape, generator=rng) for shape in ((400, 64), (70, 64), (400, 70)))
    found = closed_form.gains(values, 2, x.T @ x, x.T @ wanted)
    for row in (0, 69):  # alone in the last part
        parts = torch.stack([x[:, half] @ values[row, half] for half in (slice(32), slice(32, 64))], 1)
        weight = closed_form.RIDGE * parts.square().sum(0).mean()
        ridge = weight.sqrt() * torch.eye(2)
        expected = torch.linalg.lstsq(torch.cat([parts, ridge]), torch.cat([wanted[:, row], ridge.sum(1)])[:, None]).solution
        assert torch.allclose(found[row], expected[:, 0], atol=1e-4)


def test_a_float_bundle_that_sees_with_onnx_can_be_quantised(tmp_path: Path) -> None:
    convert(CHECKPOINT, tmp_path / "float", Options(quant="bf16", vision_backend="onnx", max_tokens=12))
    manifest = convert(tmp_path / "float", tmp_path / "small", Options(quant="rtn:q4_k"))
    before = store.read(tmp_path / "float").manifest
    assert manifest.files["vision_onnx"] == before.files["vision_onnx"] and manifest.prompt == before.prompt
    assert manifest.quantisation.vision_type == "onnx-int8" and manifest.files["lm"].bytes < before.files["lm"].bytes / 3
    with pytest.raises(EdgeVqaError, match="quantised already"):
        convert(tmp_path / "small", tmp_path / "smaller", Options(quant="rtn:q3_k_s"))


def test_weights_of_a_file_are_torchs_own(bf16: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = weights_of(parts.from_gguf(store.read(bf16).files["lm"]), 0)
    for values in weights.values():
        values += 1  # of memory that is mapped for reading, this would end the process


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--recover", "few.jsonl"], "too few to recover on"),
        (["--recover", "none.jsonl"], "cannot be read"),
        (["--recover", "q.jsonl", "--quant", "bf16"], "nothing is lost in bf16"),
        (["--recover", "q.jsonl", "--recover-by", "magic"], "unknown"),
        (["--recover", "q.jsonl", "--recover-minutes", "0"], "takes a while"),
        (["--recover", "q.jsonl", "--teacher", "other"], "another vocabulary"),
        (["--recover", "q.jsonl", "--quant", "keep"], "kept as it is cannot be recovered"),
        (["--teacher", "other"], "give --recover QUESTIONS.jsonl"),
        (["--recover-minutes", "5"], "give --recover QUESTIONS.jsonl"),
    ],
)
def test_bad_input_costs_one_line(run: Run, unlabelled: Path, tmp_path: Path, more: list[str], words: str) -> None:
    (tmp_path / "q.jsonl").write_text(unlabelled.read_text())
    (tmp_path / "few.jsonl").write_text("\n".join(unlabelled.read_text().splitlines()[:9]))
    if "other" in more:
        with opened(CHECKPOINT, Options()) as found:
            _another_vocabulary(found, tmp_path / "other")
    given = [str(tmp_path / one) if one.endswith(".jsonl") or one == "other" else one for one in more]
    result = run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "out", "--quant", "rtn:q4_0", *given)
    assert words in one_line(result)
    assert not (tmp_path / "out").exists()


def _another_vocabulary(model: Model, folder: Path) -> None:
    """A gguf pair of the same shapes, with two tokens that have changed places."""
    folder.mkdir()
    words = list(model.lm.metadata["tokenizer.ggml.tokens"])
    words[-1], words[-2] = words[-2], words[-1]
    lm = replace(model.lm, metadata=model.lm.metadata | {"tokenizer.ggml.tokens": words})
    writer.write(folder / "lm.gguf", lm.metadata, lm_entries(lm, parse_quant("f16"), 1, {}), lambda done: None)
    from converters.method import vision_entries

    assert model.vision is not None
    writer.write(folder / "mmproj.gguf", model.vision.metadata, vision_entries(model.vision, "f16", 1), lambda done: None)
