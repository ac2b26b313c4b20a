"""Qwen2.5-VL (`Qwen2_5_VLForConditionalGeneration`): Qwen2-VL with RMS norms, gated MLPs and attention within windows in most
layers of the tower.

Source: Bai et al. 2025 (arXiv 2502.13923); names and shapes from `transformers`' modeling_qwen2_5_vl.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.architectures import Plan, biased, qwen2_vl
from converters.architectures.qwen2_vl import plan_of, refuse_unfit, tower_rules
from converters.architectures.text import args_of
from edge_vqa.errors import EdgeVqaError

WINDOW = 112  # pixels; llama.cpp knows no other for this architecture


@dataclass(frozen=True)
class VisionArgs(qwen2_vl.VisionArgs):
    """The ViT part of config.json, with the defaults of `transformers`' Qwen2_5_VLVisionConfig."""

    hidden_size: int = 3584
    hidden_act: str = "silu"
    intermediate_size: int = 3420
    window_size: int = WINDOW


def full_attention_every(blocks: Any, layers: int) -> int:
    """llama.cpp knows full attention in every n-th layer only; other patterns are refused."""
    every = blocks[0] + 1 if isinstance(blocks, list) and blocks and isinstance(blocks[0], int) else 0
    if every < 1 or blocks != list(range(every - 1, layers, every)):
        raise EdgeVqaError(f"full attention in layers {blocks!r} of {layers} is not supported", "use an original checkpoint")
    return every


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw = config.get("vision_config") or {}
    vision: VisionArgs = args_of(VisionArgs, raw)
    refuse_unfit(vision, "silu")
    if vision.window_size != WINDOW:
        raise EdgeVqaError(f"attention windows of {vision.window_size} pixels are not supported", "use an original checkpoint")
    rules = tower_rules(vision, norm_biases=False)
    for i in range(vision.depth):
        layer, block = f"visual.blocks.{i}.mlp", f"v.blk.{i}"
        rules |= biased(f"{block}.ffn_gate", f"{layer}.gate_proj", vision.intermediate_size, vision.hidden_size)
        rules |= biased(f"{block}.ffn_up", f"{layer}.up_proj", vision.intermediate_size, vision.hidden_size)
        rules |= biased(f"{block}.ffn_down", f"{layer}.down_proj", vision.hidden_size, vision.intermediate_size)
    metadata = {
        "clip.projector_type": "qwen2.5vl_merger",
        "clip.use_silu": True,
        "clip.vision.n_wa_pattern": full_attention_every(raw.get("fullatt_block_indexes", [7, 15, 23, 31]), vision.depth),
    }
    return plan_of(config, preprocessor, vision, rules, metadata)
