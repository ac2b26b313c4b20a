"""Qwen2-VL (`Qwen2VLForConditionalGeneration`): ViT with 2-D rope and pictures of any shape, 2x2 patch merger, Qwen2 LM with
M-RoPE.

Source: Wang et al. 2024 (arXiv 2409.12191); names and shapes from `transformers`' modeling_qwen2_vl.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, Tensor, biased
from converters.architectures.text import TextArgs, args_of, is_tied, text_metadata, text_of, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.bundles.ready import HIGH_TOKENS, LOW_TOKENS
from edge_vqa.errors import EdgeVqaError

# OpenAI's CLIP statistics, which Qwen's preprocessor_config.json repeats
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionArgs:
    """The ViT part of config.json, in the words of later versions."""

    depth: int = 32
    hidden_size: int = 1280
    hidden_act: str = "quick_gelu"
    intermediate_size: int = 5120
    num_heads: int = 16
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    out_hidden_size: int = 3584


@dataclass(frozen=True)
class Widths:
    """What this version has other words for, with the defaults of `transformers`' Qwen2VLVisionConfig."""

    embed_dim: int = 1280
    hidden_size: int = 3584
    mlp_ratio: int = 4


def third(index: int, rows: int) -> Any:
    """One of the three equal parts of a fused query-key-value tensor."""
    return lambda fused: fused[index * rows : (index + 1) * rows]


def frame(index: int) -> Any:
    """One frame's kernel of a convolution over two frames: [out, 3, 2, h, w] -> [out, 3, h, w]."""

    def change(kernel: Tensor) -> Tensor:
        return np.ascontiguousarray(kernel[:, :, index])

    return change


def patch_rules(v: VisionArgs) -> dict[str, Rule]:
    """The patches' convolution over two frames: llama.cpp has one for each."""
    source, kernel = "visual.patch_embed.proj.weight", (v.hidden_size, 3, 2, v.patch_size, v.patch_size)
    return {
        f"v.patch_embd.weight{end}": Rule(source, kernel, frame(i), (v.hidden_size, 3, *kernel[3:]))
        for i, end in enumerate(("", ".1"))
    }


def tower_rules(v: VisionArgs, *, norm_biases: bool) -> dict[str, Rule]:
    """Everything of the tower but its MLPs: patches, attention, norms, merger of 2 x 2 patches side by side."""
    hidden, merged = v.hidden_size, 4 * v.hidden_size
    rules = patch_rules(v) | {"v.post_ln.weight": Rule("visual.merger.ln_q.weight", (hidden,))}
    rules |= biased("mm.0", "visual.merger.mlp.0", merged, merged)
    rules |= biased("mm.2", "visual.merger.mlp.2", v.out_hidden_size, merged)
    if norm_biases:
        rules["v.post_ln.bias"] = Rule("visual.merger.ln_q.bias", (hidden,))
    for i in range(v.depth):
        layer, block = f"visual.blocks.{i}", f"v.blk.{i}"
        for part, short in enumerate("qkv"):
            fused, cut = f"{layer}.attn.qkv", third(part, hidden)
            rules[f"{block}.attn_{short}.weight"] = Rule(f"{fused}.weight", (3 * hidden, hidden), cut, (hidden, hidden))
            rules[f"{block}.attn_{short}.bias"] = Rule(f"{fused}.bias", (3 * hidden,), cut, (hidden,))
        rules |= biased(f"{block}.attn_out", f"{layer}.attn.proj", hidden, hidden)
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


def tower_metadata(preprocessor: dict[str, Any], v: VisionArgs) -> dict[str, Any]:
    """clip.vision keys of all versions."""
    return {
        "clip.vision.patch_size": v.patch_size,
        "clip.vision.embedding_length": v.hidden_size,
        "clip.vision.feed_forward_length": v.intermediate_size,
        "clip.vision.block_count": v.depth,
        "clip.vision.attention.head_count": v.num_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.projection_dim": v.out_hidden_size,
        "clip.vision.image_size": 560,  # of llama.cpp's warm-up; pictures come in any size
        "clip.vision.image_mean": [float(v) for v in preprocessor.get("image_mean", MEAN)],
        "clip.vision.image_std": [float(v) for v in preprocessor.get("image_std", STD)],
    }


def refuse_unfit(v: VisionArgs, act: str) -> None:
    if (v.spatial_merge_size, v.temporal_patch_size, v.hidden_act) != (2, 2, act):
        raise EdgeVqaError(
            f"merge size {v.spatial_merge_size}, {v.temporal_patch_size} frames a patch and activation {v.hidden_act} "
            "of the vision tower are not supported",
            "use an original checkpoint",
        )


def plan_of(
    config: dict[str, Any], preprocessor: dict[str, Any], v: VisionArgs, rules: dict[str, Rule], metadata: dict[str, Any],
    kind: str = "qwen2",
) -> Plan:  # fmt: skip
    """What all versions share, around the tower's tensors and what is its own of metadata. kind: of the LM."""
    text, lm_metadata, tied = text_parts(config, f"{kind}vl")
    return Plan(
        lm=text_rules(text, "model", "lm_head.weight", kind=kind),
        vision=rules,
        lm_metadata=lm_metadata,
        vision_metadata=tower_metadata(preprocessor, v) | metadata,
        vocabulary=text.vocab_size,
        preprocessing=preprocessing(preprocessor, v.patch_size, 2),
        required_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
        optional=frozenset({"lm_head.weight"} if tied else ()),
        renamed=(("model.language_model.", "model."), ("model.visual.", "visual.")),
    )


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw = config.get("vision_config") or {}
    widths: Widths = args_of(Widths, raw)
    named = {"hidden_size": widths.embed_dim, "out_hidden_size": widths.hidden_size}
    vision: VisionArgs = args_of(VisionArgs, raw | named | {"intermediate_size": widths.embed_dim * widths.mlp_ratio})
    refuse_unfit(vision, "quick_gelu")
    rules = tower_rules(vision, norm_biases=True)
    for i in range(vision.depth):
        layer, block = f"visual.blocks.{i}.mlp", f"v.blk.{i}"
        rules |= biased(f"{block}.ffn_up", f"{layer}.fc1", vision.intermediate_size, vision.hidden_size)
        rules |= biased(f"{block}.ffn_down", f"{layer}.fc2", vision.hidden_size, vision.intermediate_size)
    return plan_of(config, preprocessor, vision, rules, {"clip.projector_type": "qwen2vl_merger"})
