"""Every command runs on every kind of architecture: the 8-bit bundle of a user, by the programs that a user has."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from PIL import Image

from converters import method
from converters.convert import convert
from converters.options import Options
from edge_vqa import EdgeVqaError
from edge_vqa.bundles import claims
from edge_vqa.model import load
from tests.conftest import EXAMPLES, Run
from tests.converters.pairs import Stored
from tests.converters.random_checkpoints import make

PLAIN = Options(quant="q8_0")
QUESTION = "is it red?"


# of the LMs and towers that are run in ways of their own one each; all answer in `test_bench`
@pytest.mark.parametrize("kind", ["blip_2", "gemma3", "instructblip_vicuna", "internvl", "lfm2_vl", "qwen3_vl"])
def test_compare_inspect_and_bench(kind: str, run: Run, tmp_path: Path) -> None:
    bundle, parent = tmp_path / "bundle", tmp_path / "parent"
    checkpoint = make(tmp_path / "checkpoint", kind)
    convert(checkpoint, bundle, PLAIN)
    convert(checkpoint, parent, Options(quant="f16"))
    data = tmp_path / "questions.jsonl"
    lines = [{"question_id": n, "image": str(EXAMPLES / "cat.jpg"), "question": QUESTION, "answers": ["no"]} for n in range(2)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = run("edge-vqa-convert", "inspect", bundle)
    assert shown.returncode == 0 and "q8_0" in shown.stdout, shown.stderr
    compared = run("edge-vqa-convert", "compare", parent, bundle, "--data", data)
    assert compared.returncode == 0 and "KL" in compared.stdout, compared.stderr
    timed = run("edge-vqa", "bench", "--model", bundle, "--repeat", "1", "--json")
    assert timed.returncode == 0, timed.stderr
    json.loads(timed.stdout)


@pytest.mark.parametrize("kind", ["gemma3", "internvl", "llava", "qwen2_vl", "qwen3_vl", "smolvlm"])
def test_of_two_towers_the_faster_one_is_found(kind: str, run: Run, tmp_path: Path) -> None:
    convert(make(tmp_path / "checkpoint", kind), tmp_path / "bundle", Options(quant="q8_0", vision_backend="both"))
    for backend in ((), ("--vision", "onnx")):
        asked = run("edge-vqa", "ask", EXAMPLES / "cat.jpg", QUESTION, "--model", tmp_path / "bundle", "--no-gate", *backend)
        assert asked.returncode == 0 and asked.stdout, asked.stderr


@pytest.mark.parametrize("kind", ["gemma4", "mistral3", "qwen3_5"])
def test_a_pair_in_8_bits_is_timed(kind: str, run: Run, tmp_path: Path) -> None:
    bundle = Stored(kind, tmp_path, PLAIN)
    bundle.close()
    timed = run("edge-vqa", "bench", "--model", tmp_path / "bundle", "--repeat", "1", "--json")
    assert timed.returncode == 0, timed.stderr


def test_a_gate_is_fitted(run: Run, tmp_path: Path) -> None:
    convert(make(tmp_path / "checkpoint", "lfm2_vl"), tmp_path / "bundle", PLAIN)  # whose hidden states come from the graph
    rng, lines = np.random.default_rng(0), []
    with load(tmp_path / "bundle") as model:
        for number in range(120):
            path = tmp_path / f"{number}.png"
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((120, 90)).save(path)
            own = model.ask(path, QUESTION, gate=False).candidate
            lines.append(
                {"question_id": number, "image": str(path), "question": QUESTION, "answers": [own if number % 2 else "7"]}
            )
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fitted = run("edge-vqa-selector", "fit", tmp_path / "bundle", "--data", data, "-o", tmp_path / "mine")
    assert fitted.returncode == 0 and "60 calibration questions" in fitted.stdout, fitted.stderr
    asked = run("edge-vqa", "ask", tmp_path / "0.png", QUESTION, "--model", tmp_path / "mine", "--json")
    assert asked.returncode in (0, 3) and 0 <= json.loads(asked.stdout)["confidence"] <= 1, asked.stderr


def test_a_matrix_that_llama_cpp_transposes_must_be_of_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make(tmp_path / "checkpoint", "gemma3")
    convert(checkpoint, tmp_path / "bundle", PLAIN)
    tower = tmp_path / "bundle" / "mmproj.gguf"
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tower).tensors}
    assert types[claims.TRANSPOSED] == "F16" and types["v.blk.0.attn_q.weight"] == "Q8_0"
    claims.check(tmp_path / "bundle" / "lm.gguf", tower)
    monkeypatch.setattr(method, "TRANSPOSED", "")
    convert(checkpoint, tmp_path / "other", PLAIN)
    with pytest.raises(EdgeVqaError, match=r"mm.input_projection.weight is quantised"):
        claims.check(tmp_path / "other" / "lm.gguf", tmp_path / "other" / "mmproj.gguf")
