"""Qwen2-VL (`Qwen2VLForConditionalGeneration`): ViT with 2-D rope and pictures of any shape, 2x2 patch merger, Qwen2 LM with
M-RoPE.

Source: Wang et al. 2024 (arXiv 2409.12191); names and shapes from `transformers`' modeling_qwen2_vl.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, Tensor
from converters.architectures.text import TextArgs, args_of, is_tied, text_metadata, text_of, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.bundles.ready import HIGH_TOKENS, LOW_TOKENS
from edge_vqa.errors import EdgeVqaError

# OpenAI's CLIP statistics, which Qwen's preprocessor_config.json repeats
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionArgs:
    """The ViT part of config.json, with the defaults of `transformers`' Qwen2VLVisionConfig."""

    depth: int = 32
    embed_dim: int = 1280
    hidden_size: int = 3584
    hidden_act: str = "quick_gelu"
    mlp_ratio: int = 4
    num_heads: int = 16
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2


def third(index: int, rows: int) -> Any:
    """One of the three equal parts of a fused query-key-value tensor."""
    return lambda fused: fused[index * rows : (index + 1) * rows]


def frame(index: int) -> Any:
    """One frame's kernel of a convolution over two frames: [out, 3, 2, h, w] -> [out, 3, h, w]."""

    def change(kernel: Tensor) -> Tensor:
        return np.ascontiguousarray(kernel[:, :, index])

    return change


def tower_rules(layers: int, hidden: int, patch_size: int, merged: int, out: int, *, norm_biases: bool) -> dict[str, Rule]:
    """Everything of the tower but its MLPs: patches, attention, norms, merger. merged: width of 2 x 2 patches side by side."""
    kernel = (hidden, 3, 2, patch_size, patch_size)
    rules = {
        "v.patch_embd.weight": Rule("visual.patch_embed.proj.weight", kernel, frame(0), (hidden, 3, *kernel[3:])),
        "v.patch_embd.weight.1": Rule("visual.patch_embed.proj.weight", kernel, frame(1), (hidden, 3, *kernel[3:])),
        "v.post_ln.weight": Rule("visual.merger.ln_q.weight", (hidden,)),
        "mm.0.weight": Rule("visual.merger.mlp.0.weight", (merged, merged)),
        "mm.0.bias": Rule("visual.merger.mlp.0.bias", (merged,)),
        "mm.2.weight": Rule("visual.merger.mlp.2.weight", (out, merged)),
        "mm.2.bias": Rule("visual.merger.mlp.2.bias", (out,)),
    }
    if norm_biases:
        rules["v.post_ln.bias"] = Rule("visual.merger.ln_q.bias", (hidden,))
    for i in range(layers):
        layer, block = f"visual.blocks.{i}", f"v.blk.{i}"
        for part, short in enumerate("qkv"):
            fused, cut = f"{layer}.attn.qkv", third(part, hidden)
            rules[f"{block}.attn_{short}.weight"] = Rule(f"{fused}.weight", (3 * hidden, hidden), cut, (hidden, hidden))
            rules[f"{block}.attn_{short}.bias"] = Rule(f"{fused}.bias", (3 * hidden,), cut, (hidden,))
        rules[f"{block}.attn_out.weight"] = Rule(f"{layer}.attn.proj.weight", (hidden, hidden))
        rules[f"{block}.attn_out.bias"] = Rule(f"{layer}.attn.proj.bias", (hidden,))
        for number in (1, 2):
            rules[f"{block}.ln{number}.weight"] = Rule(f"{layer}.norm{number}.weight", (hidden,))
            if norm_biases:
                rules[f"{block}.ln{number}.bias"] = Rule(f"{layer}.norm{number}.bias", (hidden,))
    return rules


def text_parts(config: dict[str, Any], architecture: str) -> tuple[TextArgs, dict[str, Any], bool]:
    """Arguments and gguf metadata of a Qwen LM with M-RoPE, and whether its embedding is tied."""
    raw, rope = text_of(config)
    text: TextArgs = args_of(TextArgs, {"rope_theta": 1e6, "rms_norm_eps": 1e-5} | raw)
    sections = rope.get("mrope_section")
    if not isinstance(sections, list) or len(sections) != 3 or sum(sections) * 2 != text.width:
        raise EdgeVqaError(f"M-RoPE sections {sections!r} do not fit heads of {text.width}", "use an original checkpoint")
    if rope.get("rope_type", rope.get("type", "default")) not in ("default", "mrope"):
        raise EdgeVqaError("rope scaling beside M-RoPE is not supported", "use an original checkpoint")
    if raw.get("use_sliding_window"):
        raise EdgeVqaError("use_sliding_window in config.json is not supported", "use an original checkpoint")
    metadata = text_metadata(text, architecture) | {f"{architecture}.rope.dimension_sections": [*sections, 0]}
    return text, metadata, is_tied(config, raw)


def preprocessing(preprocessor: dict[str, Any], patch_size: int, merge: int) -> Preprocessing:
    """Sides are multiples of what makes one token; the processor's own limits hold within a device's."""
    side, size = patch_size * merge, preprocessor.get("size") or {}
    least = int(preprocessor.get("min_pixels") or size.get("shortest_edge") or 56 * 56)
    most = int(preprocessor.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280)
    high = max(1, min(HIGH_TOKENS, most // side**2))
    low = min(LOW_TOKENS, high)
    return Preprocessing(
        tile=side,
        longest_edge=side,  # no limit of its own
        tile_tokens=1,
        resample="bicubic",
        method="dynamic",
        min_tokens=min(low, max(1, math.ceil(least / side**2))),
        low_tokens=low,
        high_tokens=high,
    )


def tower_metadata(
    preprocessor: dict[str, Any], *, layers: int, hidden: int, inner: int, heads: int, out: int
) -> dict[str, Any]:
    """clip.vision keys of both versions."""
    return {
        "clip.vision.embedding_length": hidden,
        "clip.vision.feed_forward_length": inner,
        "clip.vision.block_count": layers,
        "clip.vision.attention.head_count": heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.projection_dim": out,
        "clip.vision.image_size": 560,  # of llama.cpp's warm-up; pictures come in any size
        "clip.vision.image_mean": [float(v) for v in preprocessor.get("image_mean", MEAN)],
        "clip.vision.image_std": [float(v) for v in preprocessor.get("image_std", STD)],
    }


def refuse_unfit(merge: int, frames: int, act: str, wanted: str) -> None:
    if (merge, frames, act) != (2, 2, wanted):
        raise EdgeVqaError(
            f"merge size {merge}, {frames} frames a patch and activation {act} of the vision tower are not supported",
            "use an original checkpoint",
        )


def plan_of(
    config: dict[str, Any], preprocessor: dict[str, Any], patch_size: int, vision: dict[str, Rule], metadata: dict[str, Any],
    kind: str = "qwen2",
) -> Plan:  # fmt: skip
    """What all versions share, around the tower's tensors and metadata. kind: of the LM."""
    text, lm_metadata, tied = text_parts(config, f"{kind}vl")
    return Plan(
        lm=text_rules(text, "model", "lm_head.weight", kind=kind),
        vision=vision,
        lm_metadata=lm_metadata,
        vision_metadata=metadata,
        vocabulary=text.vocab_size,
        preprocessing=preprocessing(preprocessor, patch_size, 2),
        required_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
        optional=frozenset({"lm_head.weight"} if tied else ()),
        renamed=(("model.language_model.", "model."), ("model.visual.", "visual.")),
    )


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    vision: VisionArgs = args_of(VisionArgs, config.get("vision_config") or {})
    refuse_unfit(vision.spatial_merge_size, vision.temporal_patch_size, vision.hidden_act, "quick_gelu")
    hidden, inner = vision.embed_dim, vision.embed_dim * vision.mlp_ratio
    rules = tower_rules(vision.depth, hidden, vision.patch_size, hidden * 4, vision.hidden_size, norm_biases=True)
    for i in range(vision.depth):
        layer, block = f"visual.blocks.{i}.mlp", f"v.blk.{i}"
        rules[f"{block}.ffn_up.weight"] = Rule(f"{layer}.fc1.weight", (inner, hidden))
        rules[f"{block}.ffn_up.bias"] = Rule(f"{layer}.fc1.bias", (inner,))
        rules[f"{block}.ffn_down.weight"] = Rule(f"{layer}.fc2.weight", (hidden, inner))
        rules[f"{block}.ffn_down.bias"] = Rule(f"{layer}.fc2.bias", (hidden,))
    metadata = {
        "clip.projector_type": "qwen2vl_merger",
        "clip.vision.patch_size": vision.patch_size,
        **tower_metadata(
            preprocessor,
            layers=vision.depth,
            hidden=hidden,
            inner=inner,
            heads=vision.num_heads,
            out=vision.hidden_size,
        ),
    }
    return plan_of(config, preprocessor, vision.patch_size, rules, metadata)
