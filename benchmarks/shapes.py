"""Checkpoints with random weights in the exact shapes of published models: speed does not depend on the values.

python -m benchmarks.shapes smolvlm-256m FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from converters import architectures
from converters.architectures import Plan
from tests.converters import tokenizers

SMOL_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SMOL_VISION |= {"image_size": 512, "patch_size": 16}
SMOL_TEXT = {"model_type": "llama", "vocab_size": 49280, "rms_norm_eps": 1e-5, "rope_theta": 100000}
SMOL_TEXT |= {"max_position_embeddings": 8192, "architectures": ["VLlama3ForCausalLM"]}
STATISTICS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# From the config.json of HuggingFaceTB/SmolVLM-256M-Instruct, SmolVLM-500M-Instruct and Qwen/Qwen2-VL-2B-Instruct
SHAPES: dict[str, dict[str, Any]] = {
    "smolvlm-256m": {
        "model_type": "smolvlm",
        "architectures": ["SmolVLMForConditionalGeneration"],
        "text_config": SMOL_TEXT
        | {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3},
        "vision_config": SMOL_VISION,
        "scale_factor": 4,
        "tie_word_embeddings": True,
    },
    "smolvlm-500m": {
        "model_type": "smolvlm",
        "architectures": ["SmolVLMForConditionalGeneration"],
        "text_config": SMOL_TEXT
        | {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
        | {"num_attention_heads": 15, "num_key_value_heads": 5},
        "vision_config": SMOL_VISION,
        "scale_factor": 4,
        "tie_word_embeddings": True,
    },
    "qwen2-vl-2b": {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
    },
}


def make(folder: Path, shape: str) -> Plan:
    """Write a checkpoint of random weights; returns its plan."""
    folder.mkdir(parents=True)
    config = SHAPES[shape]
    (folder / "config.json").write_text(json.dumps(config))
    limits = {"min_pixels": 3136, "max_pixels": 12845056} if "qwen" in shape else {"size": {"longest_edge": 2048}}
    (folder / "preprocessor_config.json").write_text(json.dumps(STATISTICS | limits))
    if "qwen" in shape:
        tokenizers.qwen2(folder)
    else:
        mini = Path("recipes/mini/checkpoint")
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).write_bytes((mini / name).read_bytes())
    _, plan = architectures.plan(config, STATISTICS)
    rules = {rule.source: rule.shape for rule in (*plan.lm.values(), *plan.vision.values()) if rule.source not in plan.optional}
    header, at = {}, 0
    for name, size in rules.items():
        n = 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    noise = (np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02).view(np.uint32) >> 16
    block = noise.astype(np.uint16).tobytes()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        left = at
        while left:
            left -= stream.write(block[: min(left, len(block))])
    return plan


if __name__ == "__main__":
    make(Path(sys.argv[2]), sys.argv[1])
