"""A dress rehearsal for published files: pairs with their metadata and shapes, of fewer layers and with random weights.

    python -m tests.converters.rehearsal FOLDER [NAME ...]

Each is served by a hub on this machine, pulled, verified, asked and timed by the command line as a user would; printed is what
memory that took, beside what was reckoned. Shapes are those of the checkpoints' config.json; keys that a small file of the
tests has not (who quantised it, from which matrix, how to sample, tags, ...) are those that logs of llama.cpp print of
published files: ggml-org/llama.cpp 18809 (Qwen3-VL), 12907, 21760 (Gemma), 15528 (InternVL3), 11292 (SmolVLM),
ikawrakow/ik_llama.cpp 917.
FOLDER needs 15 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.device import memory
from tests.conftest import CHECKPOINT, EXAMPLES
from tests.converters import tokenizers
from tests.converters.large import write_weights
from tests.converters.random_checkpoints import CLIP_STATISTICS
from tests.hub import serve

LAYERS = 4
GREY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIGLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "patch_size": 16,
}
QWEN = {"vocab_size": 151936, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "num_hidden_layers": LAYERS}
CONFIGS: dict[str, dict[str, Any]] = {
    "SmolVLM-500M-Instruct": {
        **{"model_type": "idefics3", "scale_factor": 4, "image_token_id": 49190},
        "text_config": {
            **{"model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15},
            **{"num_hidden_layers": LAYERS, "num_key_value_heads": 5, "vocab_size": 49280, "max_position_embeddings": 8192},
            **{"rms_norm_eps": 1e-5, "rope_theta": 100000},
        },
        "vision_config": SIGLIP | {"image_size": 512},
    },
    "SmolVLM2-2.2B-Instruct": {
        **{"model_type": "smolvlm", "scale_factor": 3, "image_token_id": 49190},
        "text_config": {
            **{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32},
            **{"num_hidden_layers": LAYERS, "num_key_value_heads": 32, "vocab_size": 49280, "max_position_embeddings": 8192},
            **{"rms_norm_eps": 1e-5, "rope_theta": 130000},
        },
        "vision_config": {
            **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": LAYERS, "num_attention_heads": 16},
            **{"image_size": 384, "patch_size": 14},  # six pixels more than patches
        },
    },
    "Qwen2-VL-2B-Instruct": {
        **{"model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, **QWEN},
        **{"num_key_value_heads": 2, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "vision_config": {
            **{"depth": LAYERS, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
        },
    },
    "Qwen2.5-VL-3B-Instruct": {
        **{"model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, **QWEN},
        **{"num_key_value_heads": 2, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        "tie_word_embeddings": True,
        "vision_config": {
            **{"depth": LAYERS, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048},
            **{"fullatt_block_indexes": [1, 3], "patch_size": 14},
        },
    },
    "Qwen3-VL-2B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": {
            **{
                "model_type": "qwen3_vl_text",
                "hidden_size": 2048,
                "intermediate_size": 6144,
                "num_attention_heads": 16,
                **QWEN,
            },
            **{"num_key_value_heads": 8, "head_dim": 128, "rope_theta": 5e6, "max_position_embeddings": 262144},
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        },
        "tie_word_embeddings": True,
        "vision_config": {
            **{"depth": LAYERS, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048},
            **{"deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 2304, "patch_size": 16},
        },
    },
    "gemma-3-4b-it": {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "text_config": {
            **{"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 8},
            **{"num_key_value_heads": 4, "head_dim": 256, "num_hidden_layers": 6, "vocab_size": 262208, "sliding_window": 1024},
            **{"query_pre_attn_scalar": 256, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000.0},
            **{"rope_local_base_freq": 10000.0, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6},
        },
        "vision_config": {
            **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": LAYERS, "num_attention_heads": 16},
            **{"image_size": 896, "patch_size": 14},
        },
    },
    "InternVL3-1B-Instruct": {
        **{"model_type": "internvl", "image_seq_length": 256, "downsample_ratio": 0.5},
        "text_config": {
            **{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, **QWEN},
            **{"num_key_value_heads": 2, "vocab_size": 151674, "rope_theta": 1e6, "max_position_embeddings": 32768},
        },
        "vision_config": {
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": LAYERS, "num_attention_heads": 16},
            **{"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True, "use_qk_norm": False},
        },
    },
    "LFM2-VL-450M": {
        **{"model_type": "lfm2_vl", "downsample_factor": 2, "projector_hidden_size": 2560},
        "text_config": {
            **{"model_type": "lfm2", "hidden_size": 1024, "intermediate_size": 6656, "num_attention_heads": 16},
            **{
                "num_key_value_heads": 8,
                "num_hidden_layers": LAYERS,
                "vocab_size": 65536,
                "conv_L_cache": 3,
                "rope_theta": 1e6,
            },
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
        "vision_config": {key: value for key, value in SIGLIP.items() if key != "image_size"} | {"num_patches": 256},
    },
}
# Keys of published files that files of the tests have not
PUBLISHED: dict[str, Any] = {
    "general.finetune": "Instruct",
    "general.basename": "NAME",
    "general.quantized_by": "Unsloth",
    "general.size_label": "2B",
    "general.license": "apache-2.0",
    "general.repo_url": "https://huggingface.co/unsloth",
    "general.base_model.count": 1,
    "general.base_model.0.name": "NAME",
    "general.base_model.0.organization": "Qwen",
    "general.base_model.0.repo_url": "https://huggingface.co/Qwen/NAME",
    "general.tags": ["unsloth", "image-text-to-text"],
    "general.languages": ["multilingual"],
    "general.sampling.top_k": 20,
    "general.sampling.top_p": 0.95,
    "general.sampling.temp": 1.0,
    "quantize.imatrix.file": "NAME-GGUF/imatrix_unsloth.gguf",
    "quantize.imatrix.dataset": "unsloth_calibration_NAME.txt",
    "quantize.imatrix.entries_count": 196,
    "quantize.imatrix.chunks_count": 80,
}


@dataclass(frozen=True)
class Rehearsed:
    """Bytes of memory that a question took, and that were reckoned."""

    name: str
    taken: int
    reckoned: int

    @property
    def off(self) -> float:
        return self.reckoned / self.taken - 1


def checkpoint(folder: Path, name: str) -> Path:
    """Tokenizers are small, and padded to the number of tokens that the model has."""
    folder.mkdir(parents=True)
    kind, config = CONFIGS[name]["model_type"], CONFIGS[name]
    if kind in ("idefics3", "smolvlm"):
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
            shutil.copy(CHECKPOINT / file, folder / file)
    elif kind == "gemma3":
        tokenizers.gemma(folder)
        processor = {"size": {"height": 896, "width": 896}, "image_seq_length": 256, **GREY}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    else:
        more = {
            "internvl": (tokenizers.INTERNVL_TEMPLATE, tokenizers.INTERNVL_SPECIAL),
            "lfm2_vl": (tokenizers.LFM2_TEMPLATE, tokenizers.LFM2_SPECIAL, "<|startoftext|>"),
        }.get(kind, ())
        tokenizers.qwen2(folder, *more)
        processor = {"patch_size": 16 if kind == "qwen3_vl" else 14, "merge_size": 2, **CLIP_STATISTICS}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    write_weights(folder, config)
    return folder


def dressed(source: Path, target: Path, name: str, more: dict[str, Any]) -> None:
    """A copy of a gguf with more metadata, of the types that published files have."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", *more):
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for key, value in more.items():
        told = value.replace("NAME", name) if isinstance(value, str) else value
        if isinstance(told, str):
            writer.add_string(key, told)
        elif isinstance(told, int):
            (writer.add_int32 if "sampling" in key else writer.add_uint32)(key, told)
        elif isinstance(told, float):
            writer.add_float32(key, told)
        else:
            writer.add_array(key, told)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """The files as somebody publishes them: 4 bits, and a tower in half precision."""
    made = checkpoint(folder / "checkpoint", name)
    convert(made, folder / "bundle", Options(quant="q4_k_m", vision_type="f16", threads=2, name="rehearsal"))
    shutil.rmtree(made)
    lm, vision = folder / f"{name}-Q4_K_M.gguf", folder / f"mmproj-{name}-f16.gguf"
    dressed(folder / "bundle" / "lm.gguf", lm, name, PUBLISHED)
    about = {key: value for key, value in PUBLISHED.items() if not key.startswith(("quantize.", "general.sampling."))}
    dressed(folder / "bundle" / "mmproj.gguf", vision, name, about | {"clip.has_text_encoder": 0})
    shutil.rmtree(folder / "bundle")
    return lm, vision


def command(*arguments: str, env: dict[str, str]) -> str:
    """What a command says."""
    program = str(Path(sys.executable).with_name("edge-vqa"))
    done = subprocess.run([program, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}"
    return done.stdout


def rehearse(folder: Path, name: str) -> Rehearsed:
    """Write a pair, and take it through pull, verify, ask and bench."""
    lm, vision = pair(folder, name)
    environment = os.environ | {"EDGE_VQA_HOME": str(folder / "home"), "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with serve() as hub:
        hub.files[f"someone/{name}-GGUF"] = {lm.name: lm, vision.name: vision}
        command("models", "pull", f"someone/{name}-GGUF", "--name", "published", env=environment | {"HF_ENDPOINT": hub.address})
    said = command("models", "verify", "published", env=environment)
    assert "intact" in said, said
    asked = ("ask", str(EXAMPLES / "cat.jpg"), "what is this?", "--model", "published", "--no-gate", "--max-tokens", "8")
    assert command(*asked, env=environment).strip()
    command(
        "bench", "--model", "published", "--repeat", "1", "--detail", "high", "-o", str(folder / "bench.json"), env=environment
    )
    measured = json.loads((folder / "bench.json").read_text())
    subject = measured["subject"]
    need = memory.Need(subject["vision"], subject["context"], subject["kv_type"])
    reckoned = memory.plan(store.read(folder / "home" / "published"), need).total
    return Rehearsed(name, round(measured["figures"]["peak_memory"]["p50"] * 1e6), reckoned)


def main() -> None:
    for name in sys.argv[2:] or CONFIGS:
        folder = Path(sys.argv[1]) / name
        done = rehearse(folder, name)
        print(f"{name}: {done.taken / 1e6:.0f} MB taken, {done.reckoned / 1e6:.0f} reckoned ({done.off:+.0%})", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
