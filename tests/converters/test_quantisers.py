"""Rounding, HQQ and MBQ: the bytes they write, and what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from converters import calibration, ggml
from converters.convert import convert, write
from converters.decoder import decoder_of, last_norm, output, weights_of
from converters.files.checkpoint import Checkpoint
from converters.files.parts import Half
from converters.ggml import Floats
from converters.method import METHODS, lm_types, parse_quant
from converters.options import Options
from converters.quantisers import eight_levels, hqq, iq4_nl, mbq, mbq_t5, rtn
from converters.source import Model, opened
from converters.t5_layers import t5_of
from edge_vqa import EdgeVqaError, load
from edge_vqa.bundles import store
from edge_vqa.native import bindings
from edge_vqa.pictures.open import open_picture
from edge_vqa.work import questions as files
from tests.conftest import CHECKPOINT, EXAMPLES
from tests.converters.random_checkpoints import make
from tests.converters.reference import Reference

QUESTIONS = """
{"question_id": "1", "image": "cat.jpg", "question": "is it an animal?", "answers": ["yes"]}
{"question_id": "2", "image": "price.png", "question": "how much is it?", "answers": ["$4.50"]}
{"question_id": "3", "image": "shape.png", "question": "what color is the shape?", "answers": ["green"]}
{"question_id": "4", "image": "cat.jpg", "question": "what is this?", "answers": ["cat"]}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small questions file."""
    folder = tmp_path_factory.mktemp("questions")
    for name in ("cat.jpg", "price.png", "shape.png"):
        (folder / name).write_bytes((EXAMPLES / name).read_bytes())
    (folder / "questions.jsonl").write_text(QUESTIONS)
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def mini_model() -> Iterator[Model]:
    with opened(CHECKPOINT, Options(max_tokens=12)) as model:
        yield model


# -- eight levels -----------------------------------------------------------------------------------------------------


def test_eight_levels_are_nearer_than_those_of_a_scale_that_is_not_searched() -> None:
    weights = np.random.default_rng(0).normal(0, 0.05, (64, 576)).astype(np.float32)
    data = eight_levels.quantise(weights, threads=2)
    values = ggml.dequantise(data, "q4_0")
    blocks = values.reshape(-1, 32)
    assert max(len(np.unique(block)) for block in blocks) <= 8
    plain = weights.reshape(-1, 32)
    scale = np.abs(plain).max(1, keepdims=True) / 4
    plainly = np.clip(np.rint(plain / scale), -4, 3) * scale
    searched = float(np.square(blocks - plain).mean())
    assert searched < 0.9 * float(np.square(plainly - plain).mean())
    finer = ggml.dequantise(ggml.quantise(weights, "q4_0"), "q4_0")
    assert searched > 2 * float(np.square(finer - weights).mean()), "a bit less is a bit less"
    assert not ggml.dequantise(eight_levels.quantise(np.zeros((1, 64), np.float32)), "q4_0").any()


# -- llama.cpp's rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [type_ for type_ in rtn.TYPES if type_ not in rtn.OWN])
def test_the_file_is_the_one_llama_quantize_makes(type_: str, tmp_path: Path) -> None:
    convert(CHECKPOINT, tmp_path / "whole", Options(quant="bf16", name="same"))
    convert(CHECKPOINT, tmp_path / "ours", Options(quant=type_, name="same", threads=2))
    llama, _ = bindings.load()
    params = llama.llama_model_quantize_default_params()
    params.ftype = rtn.TYPES[type_][1]
    target = tmp_path / "theirs.gguf"
    assert llama.llama_model_quantize(str(tmp_path / "whole/lm.gguf").encode(), str(target).encode(), params) == 0
    assert (tmp_path / "ours/lm.gguf").read_bytes() == target.read_bytes()


def test_rows_that_k_types_cannot_take_are_stored_as_the_table_says(tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint", "idefics3")  # rows of 64 and 96
    with opened(checkpoint, Options()) as model:
        types = lm_types(model.lm, "q4_k_m")
        assert types["blk.0.attn_q.weight"] == "iq4_nl" and types["output.weight"] == "q8_0"
        assert {lm_types(model.lm, "q3_k_s")["blk.0.attn_q.weight"], lm_types(model.lm, "q6_k")["blk.0.ffn_up.weight"]} == {
            "iq4_nl",
            "q8_0",
        }
        odd = {"a.weight": (7, 20), "output.weight": (7, 20)}
        assert set(rtn.tensor_types(odd.items(), "q4_k_m", rtn.Shape(1, 1)).values()) == {"f16"}


def test_every_mixture_rule_of_large_models_is_llama_cpps(tmp_path: Path) -> None:
    """A deep model with few key heads, where the rules for layers and grouped queries show."""
    settings = {"num_hidden_layers": 17, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4}
    checkpoint = make(tmp_path / "checkpoint", "idefics3", num_key_value_heads=1, **settings)  # type: ignore[arg-type]
    convert(checkpoint, tmp_path / "whole", Options(quant="bf16", name="same"))
    llama, _ = bindings.load()
    for type_, (_, number, _) in rtn.TYPES.items():
        if type_ in rtn.OWN:
            continue
        params = llama.llama_model_quantize_default_params()
        params.ftype = number
        target = tmp_path / "theirs.gguf"
        assert llama.llama_model_quantize(str(tmp_path / "whole/lm.gguf").encode(), str(target).encode(), params) == 0
        theirs = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(target).tensors}
        with opened(checkpoint, Options()) as model:
            assert lm_types(model.lm, type_) == theirs, type_


def test_importance_changes_what_is_rounded_well() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 256), np.float32)
    weight = np.ones(256, np.float32)
    weight[::8] = 100
    plain = ggml.dequantise(ggml.quantise(values, "q4_k"), "q4_k")
    weighed = ggml.dequantise(ggml.quantise(values, "q4_k", importance=weight), "q4_k")
    heavy = [float(np.square(made - values)[:, ::8].mean()) for made in (plain, weighed)]
    assert heavy[1] < 0.8 * heavy[0], f"{heavy[1]:.2e}, without importance {heavy[0]:.2e}"


def test_threads_change_nothing() -> None:
    values = np.random.default_rng(1).standard_normal((5000, 512), np.float32)
    for type_ in ("q4_k", "q8_0", "q4_1"):
        assert np.array_equal(ggml.quantise(values, type_, threads=3), ggml.quantise(values, type_))
    assert np.array_equal(hqq.quantise(values, threads=3), hqq.quantise(values))


def test_iq4_nl_for_odd_rows_is_nearly_as_good_as_llama_cpps_and_much_better_than_q4_0() -> None:
    rng = np.random.default_rng(4)
    for values in (rng.standard_normal((256, 960), np.float32), rng.standard_t(4, (256, 576)).astype(np.float32)):
        coded = iq4_nl.quantise(values, threads=2)
        assert coded.shape == ggml.quantise(values, "iq4_nl").shape
        errors = {
            "ours": ggml.dequantise(coded, "iq4_nl"),
            "llama.cpp": ggml.dequantise(ggml.quantise(values, "iq4_nl"), "iq4_nl"),
            "q4_0": ggml.dequantise(ggml.quantise(values, "q4_0"), "q4_0"),
        }
        rms = {name: float(np.sqrt(np.square(made - values).mean())) for name, made in errors.items()}
        print(f"\niq4_nl: {rms}")
        assert rms["ours"] < 1.02 * rms["llama.cpp"] and rms["ours"] < 0.95 * rms["q4_0"], rms
    weight = np.ones(576, np.float32)
    weight[::16] = 50
    weighed = ggml.dequantise(iq4_nl.quantise(values, importance=weight), "iq4_nl")
    heavy = [float(np.square(made - values)[:, ::16].mean()) for made in (errors["ours"], weighed)]
    assert heavy[1] < 0.9 * heavy[0], heavy
    assert not ggml.dequantise(iq4_nl.quantise(np.zeros((2, 64), np.float32)), "iq4_nl").any()


# -- HQQ --------------------------------------------------------------------------------------------------------------


def _tensors() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    made = {
        "student-t, 3": rng.standard_t(3, (256, 1024)).astype(np.float32) * 0.02,
        "student-t, 5": rng.standard_t(5, (512, 512)).astype(np.float32) * 0.05,
    }
    with Checkpoint(CHECKPOINT) as checkpoint:
        for name in checkpoint.names():
            shape = checkpoint.shape(name)
            if len(shape) == 2 and shape[1] % hqq.BLOCK == 0:
                made[name] = checkpoint.tensor(name)
    return made


def test_hqq_beats_plain_rounding_and_the_hqq_package_on_every_tensor() -> None:
    from hqq.core.quantize import Quantizer

    plain_ratio, package_ratio = [], []
    for name, values in _tensors().items():
        ours = hqq.mean_error(values, ggml.dequantise(hqq.quantise(values), "q4_1"))
        plain = hqq.mean_error(values, ggml.dequantise(ggml.quantise(values, "q4_1"), "q4_1"))
        codes, meta = Quantizer.quantize(
            torch.from_numpy(values), nbits=4, group_size=32, axis=1, optimize=True, device="cpu", bitpack=False
        )
        decoded = ((codes.float().reshape(-1, 32) - meta["zero"].float()) * meta["scale"].float()).reshape(values.shape)
        package = hqq.mean_error(values, decoded.numpy())
        assert ours < plain, f"{name}: {ours:.4e}, plain {plain:.4e}"
        assert ours <= package, f"{name}: {ours:.4e}, package {package:.4e}"
        plain_ratio.append(ours / plain)
        package_ratio.append(ours / package)
    for other, ratios in (("plain Q4_1", plain_ratio), ("the hqq package", package_ratio)):
        print(f"\nHQQ / {other}, mean l_0.7 error, {len(ratios)} tensors: {np.mean(ratios):.4f}, largest {max(ratios):.4f}")


def test_hqq_writes_what_it_optimised() -> None:
    values = np.random.default_rng(2).standard_t(4, (64, 32)).astype(np.float32)
    codes, d, m = hqq.solve(values)
    assert np.array_equal(d, d.astype(np.float16)) and np.array_equal(m, m.astype(np.float16))
    assert codes.min() >= 0 and codes.max() <= 15
    stored = ggml.dequantise(hqq.pack(codes, d, m), "q4_1")
    assert np.allclose(stored, codes * d + m, atol=1e-6)
    flat = np.full((3, 32), 0.25, np.float32)  # no range at all
    assert np.allclose(ggml.dequantise(hqq.quantise(flat), "q4_1"), flat, atol=1e-4)
    assert not ggml.dequantise(hqq.quantise(np.zeros((2, 64), np.float32)), "q4_1").any()


def test_hqqs_file_differs_from_plain_q4_1_in_its_blocks_only(tmp_path: Path) -> None:
    for quant in ("hqq:q4_1", "rtn:q4_1"):
        convert(CHECKPOINT, tmp_path / quant, Options(quant=quant, name="same", max_tokens=12))
    ours, plain = (gguf.GGUFReader(tmp_path / q / "lm.gguf") for q in ("hqq:q4_1", "rtn:q4_1"))
    for a, b in zip(ours.tensors, plain.tensors, strict=True):
        assert (a.name, a.tensor_type) == (b.name, b.tensor_type)
        assert np.array_equal(a.data, b.data) == (a.tensor_type.name != "Q4_1"), a.name


# -- MBQ --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "internvl", "lfm2_vl", "llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_calibration_sees_what_transformers_sees(kind: str, asked: Path, tmp_path: Path) -> None:
    """The torch decoder on calibration samples gives the logits that `transformers` gives on the whole prompt."""
    checkpoint = make(tmp_path / "checkpoint", kind, num_key_value_heads=1)
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    reference = Reference(checkpoint, store.read(tmp_path / "bundle"))
    question = files.read(asked)[0]
    try:
        with opened(checkpoint, Options()) as model:
            (sample,) = calibration.collect(model, tmp_path / "bundle" / "mmproj.gguf", "mtmd", [question], 1)
            decoder = decoder_of(model.lm)
            x, place = torch.from_numpy(sample.embeddings), mbq.place_of(decoder, sample)
            for number in range(decoder.layers):
                angles, spans = decoder.at(place, number)
                x = decoder.layer(x, weights_of(model.lm, number), angles, spans=spans)
            head = output(model.lm).read()
            x = decoder.norm(x, torch.from_numpy(last_norm(model.lm).read()))
            ours = (x[torch.from_numpy(sample.answer)] @ torch.from_numpy(head).T).numpy()
        compared = reference.compare(open_picture(question.image), question.question, "low")
        error = float(np.abs(ours[0] - compared.theirs).max() / np.ptp(compared.theirs))
        print(f"\n{kind}: logit error / range {error:.1e}")
        assert error < 3e-3, f"{error:.2e}"  # embeddings pass through float16 here
    finally:
        reference.close()


@pytest.mark.parametrize("kind", ["gemma3", "internvl", "lfm2_vl", "mini", "llava", "qwen2_vl", "qwen3_vl"])
def test_folding_alone_changes_nothing(kind: str, tmp_path: Path) -> None:
    checkpoint = CHECKPOINT if kind == "mini" else make(tmp_path / "checkpoint", kind)
    photo, rng = open_picture(EXAMPLES / "cat.jpg"), np.random.default_rng(3)
    options = Options(quant="f32", vision_type="f32", max_tokens=12, force=True)
    with opened(checkpoint, options) as model:
        decoder, scales = decoder_of(model.lm), {}
        for layer in range(decoder.layers):
            groups = mbq.groups_of(model.lm.tensors, f"blk.{layer}.")
            for group, (linears, _) in groups.items():
                n = model.lm.tensors[f"blk.{layer}.{linears[0]}.weight"].shape[1]
                s = np.exp(rng.normal(0, 1, n)).astype(np.float32)
                if linears == ("attn_output",):  # query heads that share a value head share its scale
                    shared = s.reshape(decoder.keys, -1, decoder.width)[:, :1]
                    s = np.repeat(shared, decoder.heads // decoder.keys, 1).reshape(-1)
                scales[f"blk.{layer}.{group}"] = s
        write(model, checkpoint, tmp_path / "plain", options)
        write(replace(model, lm=mbq.fold(model.lm, decoder, scales)), checkpoint, tmp_path / "folded", options)
    logits = []
    for name in ("plain", "folded"):
        reference = Reference(checkpoint, store.read(tmp_path / name))
        logits.append(reference.compare(photo, "what is this?", "low").ours)
        reference.close()
    error = float(np.abs(logits[0] - logits[1]).max() / np.ptp(logits[0]))
    print(f"\n{kind}: folding changes logits by {error:.1e} of their range")
    assert 0 < error < 1e-4, f"{error:.2e}"


def t5_logits(lm: Half, samples: list[mbq.Sample]) -> torch.Tensor:
    """Behind each token of the first sample's answer, by the torch layers."""
    t5 = t5_of(lm)
    sources: list[torch.Tensor | None] = [None] * len(samples)
    for stack in mbq_t5.stacks(lm, t5, samples):
        states = stack.states
        for number in range(stack.layers):
            w = weights_of(lm, number, stack.half)
            states = [t5.layer(x, w, bias, source) for x, bias, source in zip(states, stack.biases, sources, strict=True)]
        if stack.half == "enc.":
            sources = [*mbq_t5.encoded_by(lm, t5, states)]
    norm = torch.from_numpy(lm.tensors["dec.output_norm.weight"].read())
    return t5.norm(states[0], norm) @ torch.from_numpy(output(lm).read()).T


@pytest.mark.parametrize("kind", ["blip_2", "instructblip"])
def test_calibration_sees_of_t5_what_transformers_sees(kind: str, asked: Path, tmp_path: Path) -> None:
    """And scales folded into both halves change nothing, however they are chosen."""
    checkpoint = make(tmp_path / "checkpoint", kind)
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", onnx_type="f32"))
    bundle = store.read(tmp_path / "bundle")
    reference = Reference(checkpoint, bundle)
    question, rng = files.read(asked)[0], np.random.default_rng(3)

    def rounded(name: str, values: Floats) -> Floats:
        return values + rng.normal(0, 0.1, values.shape).astype(np.float32)

    try:
        with opened(checkpoint, Options()) as model:
            samples = calibration.collect(model, bundle.files["vision_onnx"], "onnx", [question], 1)
            ours = t5_logits(model.lm, samples)
            told = {"importance": False, "progress": lambda step, done, total: None}
            folded, _ = mbq_t5.calibrate(model.lm, samples, rounded, **told)  # type: ignore[arg-type]
            pairs = [(name, part.read(), folded.tensors[name].read()) for name, part in model.lm.tensors.items()]
            again = t5_logits(folded, samples)
        compared = reference.compare(open_picture(question.image), question.question, "low")
    finally:
        reference.close()
    error = float(np.abs(ours[0].numpy() - compared.theirs).max() / np.ptp(compared.theirs))
    print(f"\n{kind}: logit error / range {error:.1e}")
    assert error < 3e-3, f"{error:.2e}"  # embeddings pass through float16 here
    assert {name.split(".")[0] for name, before, after in pairs if not np.array_equal(before, after)} == {"enc", "dec"}
    assert torch.allclose(ours, again, atol=1e-4 * float(ours.max() - ours.min()))


@pytest.mark.parametrize("quant", ["mbq+hqq:q4_1", "mbq-imatrix:q4_k_m"])
def test_t5_is_calibrated_from_the_command(quant: str, asked: Path, tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint", "instructblip")
    convert(checkpoint, tmp_path / "plain", Options(quant=quant.replace("mbq+", "").replace("mbq-imatrix:", "")))
    convert(checkpoint, tmp_path / "made", Options(quant=quant, calibration=asked))
    plain, made = ((tmp_path / name / "lm.gguf").read_bytes() for name in ("plain", "made"))
    assert len(plain) == len(made) and plain != made
    with load(tmp_path / "made") as model:
        assert model.ask(EXAMPLES / "cat.jpg", "what is this?", gate=False, max_tokens=3).trace.tokens


def test_the_search_lowers_the_error_it_looks_at(mini_model: Model, asked: Path, tmp_path: Path) -> None:
    convert(CHECKPOINT, tmp_path / "bundle", Options(quant="q4_0", vision_type="f16"))
    samples = calibration.collect(mini_model, tmp_path / "bundle" / "mmproj.gguf", "mtmd", files.read(asked), 1)
    decoder = decoder_of(mini_model.lm)
    balance = mbq.measure_balance(mini_model.lm, decoder, samples, lambda *_: None)
    assert 0 < balance.attention < 1 and 0 < balance.mlp < 1, f"vision tokens matter less than the answer's: {balance}"
    weights = balance.weights(samples, "attn_norm")
    first = samples[0].vision.argmax()
    assert not weights[:first].any() and weights[first] == pytest.approx(balance.attention)
    chosen: dict[str, Floats] = {}
    original = mbq.fold
    try:
        mbq.fold = lambda lm, decoder, scales: chosen.update(scales) or lm  # type: ignore[assignment,func-returns-value]
        mbq.calibrate(mini_model.lm, samples, lambda name, v: ggml.dequantise(ggml.quantise(v, "q4_0"), "q4_0"))
    finally:
        mbq.fold = original
    assert len(chosen) == decoder.layers * len(mbq.GROUPS)
    assert any(np.ptp(np.log(s)) > 0.1 for s in chosen.values()), "no scale was ever chosen"


def test_no_scale_makes_the_largest_activation_larger(mini_model: Model) -> None:
    """The first token's are huge in a few channels that are quiet elsewhere; a block of them must stay within float16."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(200, 64, generator=rng) * torch.linspace(0.01, 1, 64)
    x[0, 3] = 3000.0
    weight = {"ffn_down.weight": torch.randn(32, 64, generator=rng)}
    counts = torch.cat([torch.zeros(1), torch.ones(199)])

    def rounded(name: str, values: Floats) -> Floats:
        return ggml.dequantise(ggml.quantise(values, "q4_0"), "q4_0")

    s = mbq._search(decoder_of(mini_model.lm), "ffn_down", [x], [], weight, partial(mbq.round_all, rounded, "blk.0"), counts)
    assert s.max() / s.min() > 1.5, "it was worth scaling"
    assert (x / s).abs().max() <= 1.001 * x.abs().max()


@pytest.mark.parametrize("method", [name for name, (_, equalise, weigh) in METHODS.items() if equalise or weigh])
def test_every_calibrated_method_makes_a_bundle_that_answers(method: str, asked: Path, tmp_path: Path) -> None:
    import edge_vqa

    type_ = "q4_1" if "hqq" in method else "q4_0"
    manifest = convert(CHECKPOINT, tmp_path / "b", Options(quant=f"{method}:{type_}", calibration=asked, max_tokens=12))
    assert manifest.quantisation.method == method and manifest.quantisation.calibration == "questions.jsonl"
    with edge_vqa.load(tmp_path / "b") as model:
        assert model.ask(EXAMPLES / "price.png", "how much is it?", gate=False).text == "$4.50"


def test_what_calibration_cannot_do_is_refused(asked: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeVqaError, match="needs questions to calibrate on"):
        convert(CHECKPOINT, tmp_path / "b", Options(quant="mbq+rtn:q4_0"))
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text('{"question_id": "1", "image": "cat.jpg", "question": "what?"}')
    with pytest.raises(EdgeVqaError, match="no answers"):
        convert(CHECKPOINT, tmp_path / "b", Options(quant="mbq+rtn:q4_0", calibration=unlabelled))
    for wrong in ("hqq:q4_k_m", "mbq+hqq:q4_0", "awq:q4_0", "rtn:q9"):
        with pytest.raises(EdgeVqaError):
            parse_quant(wrong)
    assert not (tmp_path / "b").exists()
