"""What the converter writes, and what it refuses before it writes anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from converters import compare as comparison
from converters.convert import convert
from converters.files.checkpoint import Checkpoint
from converters.options import Options
from edge_vqa import EdgeVqaError
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.metrics import coverage_at_risk
from edge_vqa.trust.intervals import Figure
from tests.conftest import CHECKPOINT, EXAMPLES, Asked, Run, one_line
from tests.converters.random_checkpoints import BLIP, KINDS, make


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped checkpoint that a test may damage."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def read(path: Path) -> tuple[dict[str, object], dict[str, gguf.ReaderTensor]]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def test_the_language_model_has_llamas_names_shapes_and_metadata(f32_bundle: Bundle) -> None:
    metadata, tensors = read(f32_bundle.files["lm"])
    config = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    layers, hidden, inner, vocabulary = (
        config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    )
    expected = {
        "general.architecture": "llama",
        "llama.block_count": layers,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 64,
        "llama.vocab_size": vocabulary,
        "llama.context_length": 512,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["llama.rope.freq_base"] == pytest.approx(10000.0)
    shapes = {
        "attn_norm": [hidden],
        "ffn_norm": [hidden],
        "attn_q": [hidden, 256],
        "attn_k": [hidden, 128],
        "attn_v": [hidden, 128],
        "attn_output": [256, hidden],
        "ffn_gate": [hidden, inner],
        "ffn_up": [hidden, inner],
        "ffn_down": [inner, hidden],
    }
    wanted = {f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in shapes.items()}
    wanted |= {"token_embd.weight": [hidden, vocabulary], "output.weight": [hidden, vocabulary]}
    wanted |= {"output_norm.weight": [hidden]}
    assert {name: [int(n) for n in t.shape] for name, t in tensors.items()} == wanted
    assert metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.eot_token_id"]] == "<end_of_utterance>"  # type: ignore[index]


def test_the_vision_tower_has_mtmds_names_shapes_and_metadata(f32_bundle: Bundle) -> None:
    metadata, tensors = read(f32_bundle.files["vision"])
    expected = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.projector_type": "idefics3",
        "clip.has_vision_encoder": True,
        "clip.use_gelu": True,
        "clip.vision.image_size": 128,
        "clip.vision.patch_size": 16,
        "clip.vision.embedding_length": 256,
        "clip.vision.block_count": 6,
        "clip.vision.attention.head_count": 4,
        "clip.vision.projection_dim": 256,
        "clip.vision.projector.scale_factor": 2,
        "clip.vision.preproc_image_size": 512,
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["clip.vision.image_mean"] == [0.5, 0.5, 0.5]
    assert [int(n) for n in tensors["v.patch_embd.weight"].shape] == [16, 16, 3, 256]
    assert [int(n) for n in tensors["mm.model.fc.weight"].shape] == [1024, 256]
    assert [int(n) for n in tensors["v.blk.0.ffn_up.weight"].shape] == [256, 768]
    assert len(tensors) == 6 + 6 * 16


def test_values_are_the_checkpoints_and_only_queries_and_keys_are_reordered(f32_bundle: Bundle) -> None:
    _, tensors = read(f32_bundle.files["lm"])
    with Checkpoint(CHECKPOINT) as checkpoint:
        layer = "model.text_model.layers.1"
        assert np.array_equal(tensors["blk.1.ffn_up.weight"].data, checkpoint.tensor(f"{layer}.mlp.up_proj.weight"))
        assert np.array_equal(tensors["output.weight"].data, checkpoint.tensor("lm_head.weight"))
        theirs = checkpoint.tensor(f"{layer}.self_attn.k_proj.weight").reshape(2, 64, 256)
        ours = np.asarray(tensors["blk.1.attn_k.weight"].data).reshape(2, 64, 256)
    for i in range(32):  # dimension i of the first half stands beside dimension i of the second
        assert np.array_equal(ours[:, 2 * i], theirs[:, i])
        assert np.array_equal(ours[:, 2 * i + 1], theirs[:, i + 32])


def test_bfloat16_is_widened_exactly() -> None:
    stored = load_file(CHECKPOINT / "model.safetensors")
    with Checkpoint(CHECKPOINT) as checkpoint:
        assert checkpoint.names() == sorted(stored)
        for name, values in stored.items():
            assert np.array_equal(checkpoint.tensor(name), values.float().numpy())


BITS = {
    "f32": (32, 32.1),
    "f16": (16, 16.1),
    "bf16": (16, 16.1),
    "q8_0": (8.4, 8.7),
    "q4_0": (4.4, 5.2),
    "q4_1": (4.9, 5.5),
    "q4_k_m": (4.4, 5.8),
    "q3_k_m": (3.3, 4.9),
}


@pytest.mark.parametrize("type_", BITS)
def test_every_quantisation_answers(type_: str, tmp_path: Path) -> None:
    from edge_vqa.model import load

    vision = {"q8_0": "q8_0", "q4_0": "q4_0", "f16": "f16"}.get(type_, "f32")
    manifest = convert(CHECKPOINT, tmp_path / "made", Options(quant=f"rtn:{type_}", vision_type=vision, threads=2))
    low, high = BITS[type_]
    assert low <= manifest.quantisation.bits_per_weight <= high, manifest.quantisation.bits_per_weight
    with load(tmp_path / "made") as model:
        assert model.ask(EXAMPLES / "shape.png", "what shape is in the image?").candidate in (
            "circle",
            "rectangle",
            "triangle",
        )


def test_the_shipped_bundle_is_what_the_shipped_checkpoint_converts_to(mini: Bundle, tmp_path: Path) -> None:
    q, prompt = mini.manifest.quantisation, mini.manifest.prompt
    options = Options(
        quant=f"{q.method}:{q.type}",
        vision_type=q.vision_type,
        name=mini.name,
        max_tokens=prompt.max_tokens,
        single=True,
        threads=2,
    )
    made = convert(CHECKPOINT, tmp_path / "mini", options)
    assert made.prompt == prompt
    assert made.runtime.preprocessing == mini.manifest.runtime.preprocessing
    for role in ("lm", "vision"):
        assert made.files[role] == mini.manifest.files[role], role


def refused(checkpoint: Path, tmp_path: Path, **options: str) -> str:
    with pytest.raises(EdgeVqaError) as caught:
        convert(checkpoint, tmp_path / "made", Options(**options))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"], "something was left behind"
    return caught.value.what


def edit(checkpoint: Path, name: str, **changes: object) -> None:
    path = checkpoint / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unfit_checkpoints_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")

    def store(changed: dict[str, object]) -> None:
        save_file(changed, checkpoint / "model.safetensors")  # type: ignore[arg-type]

    store({name: value for name, value in weights.items() if name != "lm_head.weight"})
    assert "lacks lm_head.weight" in refused(checkpoint, tmp_path)
    store(weights | {"model.extra.weight": weights["lm_head.weight"].clone()})
    assert "unknown tensors: model.extra.weight" in refused(checkpoint, tmp_path)
    store(weights | {"lm_head.weight": weights["lm_head.weight"][:, :128].clone()})
    assert "lm_head.weight has shape [" in refused(checkpoint, tmp_path)
    store(weights | {"lm_head.weight": weights["lm_head.weight"].double()})
    assert "is F64" in refused(checkpoint, tmp_path)
    store(weights)
    data = (checkpoint / "model.safetensors").read_bytes()
    for wreck in (b"", data[:1000], data[:-5], b"\xff" * 100):
        (checkpoint / "model.safetensors").write_bytes(wreck)
        assert "not an intact safetensors file" in refused(checkpoint, tmp_path)
    (checkpoint / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refused(checkpoint, tmp_path)
    (checkpoint / "pytorch_model.bin").write_bytes(b"pickle")
    assert "unpickling runs code" in refused(checkpoint, tmp_path)


def test_unfit_configurations_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    edit(checkpoint, "config.json", model_type="fuyu")
    assert "model_type 'fuyu' is not supported" in refused(checkpoint, tmp_path)
    edit(checkpoint, "config.json", model_type="idefics3", text_config=config["text_config"] | {"attention_bias": True})
    assert "attention_bias" in refused(checkpoint, tmp_path)
    rope = {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}
    edit(checkpoint, "config.json", text_config=config["text_config"] | rope)
    assert "rope scaling 'yarn'" in refused(checkpoint, tmp_path)
    edit(checkpoint, "config.json", **config)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    edit(checkpoint, "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    assert "pre-tokenizer Whitespace" in refused(checkpoint, tmp_path)
    edit(checkpoint, "tokenizer.json", **tokenizer)
    (checkpoint / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")
    assert "chat template" in refused(checkpoint, tmp_path)
    (checkpoint / "chat_template.jinja").unlink()
    assert "no chat template" in refused(checkpoint, tmp_path)
    (checkpoint / "config.json").write_text("{")
    assert "config.json is damaged" in refused(checkpoint, tmp_path)


@pytest.mark.parametrize(("quant", "words"), [("awq:q4_k_m", "method 'awq'"), ("rtn:q9", "'q9'"), ("hqq:q4_k_m", "'q4_k_m'")])
def test_unknown_quantisations_are_refused(quant: str, words: str, checkpoint: Path, tmp_path: Path) -> None:
    assert words in refused(checkpoint, tmp_path, quant=quant)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = "model.text_model.layers.2.mlp.up_proj.weight"
    weights[name][5, 7] = value
    save_file(weights, checkpoint / "model.safetensors")
    assert f"{name} holds weights that are not finite" in refused(checkpoint, tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "", "missing.safetensors"])
def test_shards_outside_the_folder_are_refused(shard: str, checkpoint: Path, tmp_path: Path) -> None:
    inner = Path(shutil.move(checkpoint, tmp_path / "outer")) / "inner"
    inner.mkdir()
    for path in (tmp_path / "outer").iterdir():  # ../model.safetensors exists, and so does what it is in the folder
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, inner)
    (inner / "sub").mkdir()
    shutil.copy(tmp_path / "outer" / "model.safetensors", inner / "sub")
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    with pytest.raises(EdgeVqaError, match="is missing from"):
        convert(inner, tmp_path / "made", Options())
    assert not (tmp_path / "made").exists()


def test_a_full_disk_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    line = one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "made", preexec_fn=limited))
    assert "cannot be written" in line
    assert not any(tmp_path.iterdir()), list(tmp_path.iterdir())


# -- ready gguf files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BLIP])
def test_a_float_gguf_pair_becomes_the_bundle_its_checkpoint_becomes(kind: str, tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint", kind)
    convert(checkpoint, tmp_path / "float", Options(quant="f32", vision_type="f32"))
    (tmp_path / "float" / "bundle.json").unlink()
    for quant in ("rtn:q4_k_m", "hqq:q4_1"):
        direct = convert(checkpoint, tmp_path / "direct", Options(quant=quant, name="same", force=True))
        paired = convert(tmp_path / "float", tmp_path / "paired", Options(quant=quant, name="same", force=True))
        assert paired.prompt == direct.prompt
        assert paired.quantisation == direct.quantisation
        pixels, wanted = paired.runtime.preprocessing, direct.runtime.preprocessing
        assert (pixels.method, pixels.tile, pixels.tile_tokens) == (wanted.method, wanted.tile, wanted.tile_tokens)
        for file in ("lm.gguf", "mmproj.gguf"):
            ours, theirs = (read(tmp_path / folder / file)[1] for folder in ("paired", "direct"))
            assert {n: (t.tensor_type, t.data.tobytes()) for n, t in ours.items()} == {
                n: (t.tensor_type, t.data.tobytes()) for n, t in theirs.items()
            }


def test_a_pair_of_an_unknown_projector_runs_as_llama_cpp_cuts_pictures(tmp_path: Path, f32_bundle: Bundle) -> None:
    """Idefics3's files under a template that knows no pictures: llama.cpp's own preprocessing and markers."""
    import edge_vqa

    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}User:{{ m['content'] }}{% endfor %}<end_of_utterance>\nAssistant:")
    template = plain.read_text()
    options = Options(quant="keep", chat_template=template, max_tokens=12)
    manifest = convert(f32_bundle.files["lm"], tmp_path / "kept", options)
    assert manifest.runtime.preprocessing.method == "native"
    assert manifest.prompt.before.endswith("User:") and manifest.prompt.question == "{question}"
    with edge_vqa.load(tmp_path / "kept") as model:
        ours = model.ask(EXAMPLES / "shape.png", "what shape is this?", detail="high", gate=False)
    with edge_vqa.load(f32_bundle.folder) as model:  # cut by us: the same slices, scaled by another filter
        wanted = model.ask(EXAMPLES / "shape.png", "what shape is this?", detail="high", gate=False)
    assert ours.text == wanted.text and ours.trace.image_tokens == wanted.trace.image_tokens > 16
    assert abs(ours.trace.tokens[0].logprob - wanted.trace.tokens[0].logprob) < 0.5


def test_ready_files_that_are_no_pair_are_refused(tmp_path: Path, mini: Bundle, f32_bundle: Bundle) -> None:
    lm, tower = f32_bundle.files["lm"], f32_bundle.files["vision"]

    def refusal(source: Path, **options: object) -> str:
        with pytest.raises(EdgeVqaError) as caught:
            convert(source, tmp_path / "made", Options(**options))  # type: ignore[arg-type]
        assert not (tmp_path / "made").exists()
        return str(caught.value)

    assert "is quantised already" in refusal(mini.files["lm"])
    assert "not a language model and a vision tower" in refusal(tower, mmproj=lm)
    assert "is no language model" in refusal(tower)
    (tmp_path / "one").mkdir()
    shutil.copy(lm, tmp_path / "one" / "lm.gguf")
    assert "0 vision towers" in refusal(tmp_path / "one")
    (tmp_path / "one" / "mmproj.gguf").write_bytes(tower.read_bytes()[:5000])
    assert "not a sound gguf file" in refusal(tmp_path / "one")
    assert "not a sound gguf file" in refusal(tmp_path / "one", quant="keep")


# -- looking inside ---------------------------------------------------------------------------------------------------


def test_inspect_shows_groups_types_and_every_tensor(run: Run, tmp_path: Path, mini: Bundle) -> None:
    shown = run("edge-vqa-convert", "inspect", mini.folder).stdout
    for words in ("llama", "width 256, layers 4", "feed-forward", "q4_k 10, q6_k 2", "idefics3", "chat template"):
        assert words in shown, words
    listed = run("edge-vqa-convert", "inspect", mini.files["lm"], "--tensors").stdout
    assert sum(line.lstrip().startswith("blk.") for line in listed.splitlines()) == 36
    sections = json.loads(run("edge-vqa-convert", "inspect", CHECKPOINT, "--json").stdout)
    assert [section["title"] for section in sections] == ["language model", "vision tower"]
    weights = sum(group["weights"] for section in sections for group in section["groups"])
    with Checkpoint(CHECKPOINT) as checkpoint:
        assert weights == sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names())
    make(tmp_path / "odd", "qwen2_5_vl")
    assert "rows of 64, 96 go into blocks of 32" in run("edge-vqa-convert", "inspect", tmp_path / "odd").stdout
    assert "no bundle" in one_line(run("edge-vqa-convert", "inspect", tmp_path / "none"))


def test_compare_measures_what_quantisation_costs(run: Run, tmp_path: Path, easy_questions: list[Asked]) -> None:
    lines = [
        json.dumps({"question_id": i, "image": str(path), "question": question, "answers": [answer]})
        for i, path, question, answer in easy_questions[:40]
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    for quant in ("f16", "q8_0", "q2_k"):
        convert(CHECKPOINT, tmp_path / quant, Options(quant=quant, vision_type="f16", max_tokens=12))
    folders = [tmp_path / quant for quant in ("f16", "q8_0", "q2_k")]
    command = ("edge-vqa-convert", "compare", *folders, "--data", tmp_path / "q.jsonl")
    result = run(*command, "-o", tmp_path / "out")
    assert result.returncode == 0 and "40 questions of q.jsonl" in result.stdout, result.stderr
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["bundles"]
    assert (tmp_path / "out" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    kl = [row["kl"]["value"] for row in rows]
    assert kl[0] == 0, kl
    assert kl[2] > kl[1] > 0, kl
    assert all(value > -1e-6 for row in rows for value in row["kl_each"])
    assert rows[0]["same"]["value"] == 1 and rows[0]["accuracy"]["value"] > 0.95
    assert rows[0]["bytes"] > rows[1]["bytes"] > rows[2]["bytes"]
    assert rows[0]["confidence"] == "maxprob" and 0.9 < rows[0]["coverage"]["value"] <= 1
    small = rows[2]["bytes"] / 1e6
    assert "take f16 " not in result.stdout and "at 5% risk, by maxprob; none that is smaller" in result.stdout
    within = run(*command, "--limit", "5", "--budget", f"{small + 0.001:.3f}", "--risk", "0.2").stdout
    assert f"take q2_k ({small:.1f} MB): within " in within and "at 20% risk" in within
    assert "take none: no bundle is within 0.1 MB" in run(*command, "--limit", "5", "--budget", "0.1").stdout
    assert "a risk of 5 is none" in one_line(run(*command, "--limit", "5", "--risk", "5"))
    printed = json.loads(run(*command, "--json", "--limit", "5").stdout)
    assert printed["questions"] == 5 and printed["take"] == "q2_k" and printed["risk"] == 0.05
    assert "no answers" in one_line(run(*command[:-1], _unlabelled(tmp_path)))
    convert(make(tmp_path / "other", "llava"), tmp_path / "llava", Options(quant="q8_0"))
    assert "compare bundles of one model" in one_line(run(*command[:3], tmp_path / "llava", *command[5:]))


def test_the_smallest_bundle_is_taken_that_answers_about_as_many() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    pictures = [str(number // 2) for number in range(n)]
    sure = rng.uniform(size=n)
    right = (rng.uniform(size=n) < 0.5 + 0.5 * sure) * 1.0  # the surer, the better

    def row(name: str, size: int, confidence: np.ndarray, *, fits: bool = True) -> comparison.Row:
        none = Figure(0.0, 0.0, 0.0)
        coverage = coverage_at_risk(confidence, right, 0.1)[0]
        own = {
            "confidence": "maxprob",
            "coverage": Figure(coverage, coverage, coverage),
            "fits": fits,
            "ece": 0.0,
            "bytes": size,
        }
        each = {"accuracy_each": right, "kl_each": right, "same_each": right, "confidence_each": confidence}
        each["coverages"] = comparison._coverages(confidence, right, pictures, 0.1)
        about = {"quantisation": "rtn:q4_0", "vision": "f16", "bits_per_weight": 4.5, "lm_bytes": size}
        return comparison.Row(name=name, **about, **own, **each, accuracy=none, kl=none, same=none)  # type: ignore[arg-type]

    near = sure + rng.normal(0, 0.001, n)
    rows = [
        row("large", 100, sure),
        row("near", 50, near),
        row("blind", 10, rng.uniform(size=n)),
        row("none", 5, sure, fits=False),
    ]
    taken = comparison.choice(rows)
    assert taken is not None and taken.name == "near"
    assert comparison.choice(rows[3:]) is None


def _unlabelled(folder: Path) -> Path:
    path = folder / "unlabelled.jsonl"
    path.write_text(json.dumps({"question_id": "1", "image": "x.png", "question": "what?"}))
    return path


def test_the_command_converts_and_never_replaces_by_accident(run: Run, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = run("edge-vqa-convert", CHECKPOINT, "-o", made, "--quant", "rtn:q4_0", "--vision-type", "q8_0")
    assert result.returncode == 0 and "bits a weight" in result.stdout
    before = store.read(made).manifest
    assert "exists already" in one_line(run("edge-vqa-convert", CHECKPOINT, "-o", made))
    assert store.read(made).manifest == before
    assert run("edge-vqa-convert", CHECKPOINT, "-o", made, "--quant", "q8_0", "--force").returncode == 0
    assert store.read(made).manifest.quantisation.type == "q8_0"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear all")
    assert "is not a bundle" in one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "mine", "--force"))
    assert (tmp_path / "mine" / "letter.txt").exists()
    (tmp_path / "file").touch()
    assert "is not a bundle" in one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "file", "--force"))
    for option, value in (("--detail", "huge"), ("--max-tokens", "0")):
        assert "prompt." in one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "new", option, value))
    assert not (tmp_path / "new").exists()
    assert "cannot be written" in one_line(run("edge-vqa-convert", CHECKPOINT, "-o", tmp_path / "file" / "made"))
    assert "is not a folder" in one_line(run("edge-vqa-convert", tmp_path / "none", "-o", tmp_path / "new"))
    assert run("edge-vqa-convert").returncode == 2
