"""Small checkpoints with random weights in exact architectures, written by `transformers` itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.conftest import CHECKPOINT

VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 2,
    "bos_token_id": None,
    "eos_token_id": 6,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def _as_published(folder: Path) -> None:
    """Write the rope parameters as SmolVLM's config.json has them: an integer base beside a scaling of null."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"].pop("rope_parameters")
    config["text_config"] |= {"rope_theta": 100000, "rope_scaling": None}
    path.write_text(json.dumps(config))


def make(
    folder: Path,
    kind: str,
    *,
    tied: bool = False,
    shards: bool = False,
    published_rope: bool = False,
    dtype: Any = torch.float32,
    **text: Any,
) -> Path:
    """Write a checkpoint of `kind` (idefics3 or smolvlm) with the embedded model's tokenizer."""
    base = json.loads((CHECKPOINT / "config.json").read_text())
    vocabulary = base["text_config"]["vocab_size"]
    config_class, model_class = {
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    }[kind]
    config = config_class(
        vision_config=VISION,
        text_config={**TEXT, "vocab_size": vocabulary, "tie_word_embeddings": tied, **text},
        image_token_id=base["image_token_id"],
        scale_factor=2,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    net = model_class(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:  # norms and biases away from 1 and 0
                parameter.add_(torch.randn_like(parameter) * 0.1)
    net.to(dtype).save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")
    if published_rope:
        _as_published(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(CHECKPOINT / name, folder / name)
    processor = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    processor |= {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
