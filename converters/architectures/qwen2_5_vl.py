"""Qwen2.5-VL (`Qwen2_5_VLForConditionalGeneration`): Qwen2-VL with RMS norms, gated MLPs and attention within windows in most
layers of the tower.

Source: Bai et al. 2025 (arXiv 2502.13923); names and shapes from `transformers`' modeling_qwen2_5_vl.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.architectures import Plan, Rule
from converters.architectures.qwen2_vl import plan_of, refuse_unfit, tower_metadata, tower_rules
from converters.architectures.text import args_of
from edge_vqa.errors import EdgeVqaError

WINDOW = 112  # pixels; llama.cpp knows no other for this architecture


@dataclass(frozen=True)
class VisionArgs:
    """The ViT part of config.json, with the defaults of `transformers`' Qwen2_5_VLVisionConfig."""

    depth: int = 32
    hidden_size: int = 3584
    hidden_act: str = "silu"
    intermediate_size: int = 3420
    num_heads: int = 16
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = WINDOW
    out_hidden_size: int = 3584


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
    refuse_unfit(vision.spatial_merge_size, vision.temporal_patch_size, vision.hidden_act, "silu")
    if vision.window_size != WINDOW:
        raise EdgeVqaError(f"attention windows of {vision.window_size} pixels are not supported", "use an original checkpoint")
    hidden, inner = vision.hidden_size, vision.intermediate_size
    rules = tower_rules(vision.depth, hidden, vision.patch_size, hidden * 4, vision.out_hidden_size, norm_biases=False)
    for i in range(vision.depth):
        layer, block = f"visual.blocks.{i}.mlp", f"v.blk.{i}"
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            rules[f"{block}.ffn_{part}.weight"] = Rule(f"{layer}.{part}_proj.weight", shape)
            rules[f"{block}.ffn_{part}.bias"] = Rule(f"{layer}.{part}_proj.bias", shape[:1])
    metadata = {
        "clip.projector_type": "qwen2.5vl_merger",
        "clip.use_silu": True,
        "clip.vision.n_wa_pattern": full_attention_every(raw.get("fullatt_block_indexes", [7, 15, 23, 31]), vision.depth),
        "clip.vision.patch_size": vision.patch_size,
        **tower_metadata(
            preprocessor,
            layers=vision.depth,
            hidden=hidden,
            inner=inner,
            heads=vision.num_heads,
            out=vision.out_hidden_size,
        ),
    }
    return plan_of(config, preprocessor, vision.patch_size, rules, metadata)
