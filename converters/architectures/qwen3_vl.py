"""Qwen3-VL (`Qwen3VLForConditionalGeneration`): Qwen2-VL with learned positions in the tower, features of several of its layers
for the first layers of the LM (DeepStack), and a Qwen3 LM with interleaved M-RoPE.

Source: Qwen3-VL technical report (arXiv 2511.21631); names and shapes from `transformers`' modeling_qwen3_vl.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from converters.architectures import Plan, Rule, biased, qwen2_vl
from converters.architectures.qwen2_vl import patch_rules, plan_of, refuse_unfit
from converters.architectures.text import args_of
from edge_vqa.errors import EdgeVqaError

STATISTICS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # where preprocessor_config.json has none


@dataclass(frozen=True)
class VisionArgs(qwen2_vl.VisionArgs):
    """The ViT part of config.json, with the defaults of `transformers`' Qwen3VLVisionConfig."""

    depth: int = 27
    hidden_size: int = 1152
    hidden_act: str = "gelu_pytorch_tanh"
    intermediate_size: int = 4304
    patch_size: int = 16
    num_position_embeddings: int = 2304


def tower_rules(v: VisionArgs, deep: list[int]) -> dict[str, Rule]:
    """deep: layers whose features the LM gets."""
    hidden, inner, merged, out = v.hidden_size, v.intermediate_size, 4 * v.hidden_size, v.out_hidden_size
    rules = patch_rules(v) | {
        "v.patch_embd.bias": Rule("visual.patch_embed.proj.bias", (hidden,)),
        "v.position_embd.weight": Rule("visual.pos_embed.weight", (v.num_position_embeddings, hidden)),
    }
    mergers = {f"visual.deepstack_merger_list.{number}": [f"v.deepstack.{i}.{part}" for part in ("norm", "fc1", "fc2")]
               for number, i in enumerate(deep)}  # fmt: skip
    for source, (norm, first, second) in {"visual.merger": ["v.post_ln", "mm.0", "mm.2"], **mergers}.items():
        rules |= biased(norm, f"{source}.norm", hidden if source == "visual.merger" else merged)
        rules |= biased(first, f"{source}.linear_fc1", merged, merged)
        rules |= biased(second, f"{source}.linear_fc2", out, merged)
    for i in range(v.depth):
        layer, block = f"visual.blocks.{i}", f"v.blk.{i}"
        rules |= biased(f"{block}.ln1", f"{layer}.norm1", hidden)
        rules |= biased(f"{block}.ln2", f"{layer}.norm2", hidden)
        rules |= biased(f"{block}.attn_qkv", f"{layer}.attn.qkv", 3 * hidden, hidden)
        rules |= biased(f"{block}.attn_out", f"{layer}.attn.proj", hidden, hidden)
        rules |= biased(f"{block}.ffn_up", f"{layer}.mlp.linear_fc1", inner, hidden)
        rules |= biased(f"{block}.ffn_down", f"{layer}.mlp.linear_fc2", hidden, inner)
    return rules


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw = dict(config.get("vision_config") or {})
    deep = raw.pop("deepstack_visual_indexes", [8, 16, 24])
    vision: VisionArgs = args_of(VisionArgs, raw)
    refuse_unfit(vision, "gelu_pytorch_tanh")
    side = math.isqrt(vision.num_position_embeddings)
    if side**2 != vision.num_position_embeddings or deep != sorted(set(deep) & set(range(vision.depth))):
        raise EdgeVqaError(
            f"{vision.num_position_embeddings} positions, features of layers {deep} are not supported",
            "use an original checkpoint",
        )
    metadata = {
        "clip.projector_type": "qwen3vl_merger",
        "clip.use_gelu": True,
        "clip.vision.spatial_merge_size": vision.spatial_merge_size,
        "clip.vision.image_size": side * vision.patch_size,
        "clip.vision.is_deepstack_layers": [i in deep for i in range(vision.depth)],
    }
    made = plan_of(config, STATISTICS | preprocessor, vision, tower_rules(vision, deep), metadata, "qwen3")
    if len(deep) >= made.lm_metadata["qwen3vl.block_count"]:
        raise EdgeVqaError("the vision tower has features for all layers of the LM", "use an original checkpoint")
    return replace(made, lm_metadata=made.lm_metadata | {"qwen3vl.n_deepstack_layers": len(deep)})
