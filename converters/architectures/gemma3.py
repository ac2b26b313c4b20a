"""Gemma 3 with a vision tower (`Gemma3ForConditionalGeneration`): SigLIP, patches averaged, a norm and one linear connector, an
LM whose layers look back a window's length but for every sixth. Tokens of a picture see each other.

Source: Gemma 3 technical report (arXiv 2503.19786); names and shapes from `transformers`' modeling_gemma3.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from converters.architectures import Plan, Rule, Tensor
from converters.architectures.idefics3 import VisionArgs, vision_metadata, vision_rules
from converters.architectures.text import TextArgs, args_of, text_metadata, text_of, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError

PATTERN = 6  # of so many layers the last looks back all the way; llama.cpp knows no other
# where config.json leaves them out
TEXT = {
    **{"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    **{"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "max_position_embeddings": 131072},
}
VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 896, "patch_size": 14}


@dataclass(frozen=True)
class Gemma3Text(TextArgs):
    """What Gemma 3's text part has beside."""

    sliding_window: int = 4096
    query_pre_attn_scalar: float = 256
    hidden_activation: str = "gelu_pytorch_tanh"


def plus_one(weight: Tensor) -> Tensor:
    """Its norms are stored as what they differ from one by."""
    return weight + 1


def lm_rules(text: TextArgs, prefix: str) -> dict[str, Rule]:
    """Norms before and behind attention and MLP, and of queries and keys."""
    rules = text_rules(text, prefix, f"{prefix}.embed_tokens.weight", kind="qwen3")
    del rules["output.weight"]
    for i in range(text.num_hidden_layers):
        layer, block = f"{prefix}.layers.{i}", f"blk.{i}"
        rules[f"{block}.post_attention_norm.weight"] = rules.pop(f"{block}.ffn_norm.weight")
        rules[f"{block}.ffn_norm.weight"] = Rule(f"{layer}.pre_feedforward_layernorm.weight", (text.hidden_size,))
        rules[f"{block}.post_ffw_norm.weight"] = Rule(f"{layer}.post_feedforward_layernorm.weight", (text.hidden_size,))
    return {name: replace(rule, change=plus_one) if "norm" in name else rule for name, rule in rules.items()}


def lm_metadata(raw: dict[str, Any], text: Gemma3Text) -> dict[str, Any]:
    """llama.cpp's keys; refuses what it would silently do otherwise."""
    rope = raw.get("rope_parameters") or {}
    whole, near = (dict(rope.get(f"{kind}_attention") or {}) for kind in ("full", "sliding"))
    whole |= raw.get("rope_scaling") or {}
    local = near.get("rope_theta", raw.get("rope_local_base_freq", 10000.0))
    layers = raw.get("layer_types") or [
        "full_attention" if (i + 1) % (raw.get("sliding_window_pattern") or PATTERN) == 0 else "sliding_attention"
        for i in range(text.num_hidden_layers)
    ]
    every = [layer == "full_attention" for layer in layers] == [(i + 1) % PATTERN == 0 for i in range(text.num_hidden_layers)]
    kind = whole.get("rope_type", "default")
    plain = math.isclose(text.query_pre_attn_scalar, text.width) or text.num_hidden_layers == 62  # whose scale is another
    if not every or kind not in ("default", "linear") or not plain or raw.get("final_logit_softcapping"):
        raise EdgeVqaError(
            "attention or rotation of another kind than Gemma 3's is not supported", "use an original checkpoint"
        )
    made = text_metadata(replace(text, rope_theta=float(whole.get("rope_theta", raw.get("rope_theta", 1e6)))), "gemma3")
    made |= {"gemma3.attention.sliding_window": text.sliding_window, "gemma3.rope.freq_base_swa": float(local)}
    if kind == "linear":
        made |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": float(whole["factor"])}
    return made


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw, _ = text_of(config)
    text: Gemma3Text = args_of(Gemma3Text, TEXT | raw)
    vision: VisionArgs = args_of(VisionArgs, VISION | (config.get("vision_config") or {}))
    side, tokens = vision.image_size // vision.patch_size, int(config.get("mm_tokens_per_image", 256))
    factor = side // max(1, math.isqrt(tokens))
    if (text.hidden_activation, vision.hidden_act) != ("gelu_pytorch_tanh",) * 2 or (side // max(1, factor)) ** 2 != tokens:
        raise EdgeVqaError(
            f"{tokens} tokens of {side} x {side} patches, or an activation, is not supported", "use an original checkpoint"
        )
    rules = vision_rules(vision, "vision_tower")
    rules["mm.input_projection.weight"] = Rule(
        "multi_modal_projector.mm_input_projection_weight", (vision.hidden_size, text.hidden_size)
    )
    rules["mm.soft_emb_norm.weight"] = Rule("multi_modal_projector.mm_soft_emb_norm.weight", (vision.hidden_size,), plus_one)
    return Plan(
        lm=lm_rules(text, "language_model"),
        vision=rules,
        lm_metadata=lm_metadata(raw, text),
        vision_metadata=vision_metadata("gemma3", vision, text.hidden_size, factor, preprocessor),
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(vision.image_size, vision.image_size, tokens, "bilinear", "square"),
        required_tokens=("<start_of_image>", "<end_of_image>"),
        unused=r"vision_tower\.head\..*|language_model\.lm_head\.weight",
        renamed=(
            ("model.language_model.", "language_model."),
            ("language_model.model.", "language_model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.vision_tower.", "vision_tower."),
            ("vision_tower.vision_model.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        ),
    )
