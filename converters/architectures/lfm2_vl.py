"""LFM2-VL (`Lfm2VlForConditionalGeneration`): SigLIP 2 on pictures of any shape, pixel unshuffle, two-layer MLP, an LM of short
convolutions with attention in some layers.

Source: LFM2 technical report (arXiv 2511.23404); names, shapes from `transformers`' modeling_lfm2.py and modeling_lfm2_vl.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, Tensor, biased, idefics3
from converters.architectures.idefics3 import layer_rules, vision_metadata
from converters.architectures.text import TextArgs, args_of, text_metadata, text_of
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.bundles.ready import LOW_TOKENS
from edge_vqa.errors import EdgeVqaError

BASE = 256  # pixels of the side that positions are stored for


@dataclass(frozen=True)
class Lfm2Text(TextArgs):
    """What LFM2's config.json has beside."""

    vocab_size: int = 65536
    hidden_size: int = 2560
    intermediate_size: int = 12288
    num_key_value_heads: int = 8
    max_position_embeddings: int = 128000
    norm_eps: float = 1e-5
    conv_L_cache: int = 3  # noqa: N815  config.json's name
    conv_bias: bool = False
    block_auto_adjust_ff_dim: bool = True
    block_ffn_dim_multiplier: float = 1.0
    block_multiple_of: int = 256

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        if not self.block_auto_adjust_ff_dim:
            return self.intermediate_size
        width = int(self.block_ffn_dim_multiplier * int(2 * self.intermediate_size / 3))
        return -(-width // self.block_multiple_of) * self.block_multiple_of


@dataclass(frozen=True)
class VisionArgs(idefics3.VisionArgs):
    """The SigLIP 2 part of config.json, with the defaults of `transformers`' Siglip2VisionConfig."""

    hidden_size: int = 768
    num_attention_heads: int = 12
    image_size: int = BASE
    patch_size: int = 16
    num_patches: int = 256


def lm_rules(text: Lfm2Text, kinds: list[str], prefix: str) -> dict[str, Rule]:
    """kinds: of each layer, `conv` or `full_attention`."""
    hidden, width, inner = text.hidden_size, text.width, text.inner
    queries, keys = text.num_attention_heads * width, text.kv_heads * width
    rules = {
        "token_embd.weight": Rule(f"{prefix}.embed_tokens.weight", (text.vocab_size, hidden)),
        "token_embd_norm.weight": Rule(f"{prefix}.embedding_norm.weight", (hidden,)),
    }
    attention = {
        **{"attn_q": ("q_proj", (queries, hidden)), "attn_k": ("k_proj", (keys, hidden)), "attn_v": ("v_proj", (keys, hidden))},
        **{"attn_output": ("out_proj", (hidden, queries)), "attn_q_norm": ("q_layernorm", (width,))},
        "attn_k_norm": ("k_layernorm", (width,)),
    }
    mlp = {"ffn_gate": ("w1", (inner, hidden)), "ffn_down": ("w2", (hidden, inner)), "ffn_up": ("w3", (inner, hidden))}
    for i, kind in enumerate(kinds):
        layer, block = f"{prefix}.layers.{i}", f"blk.{i}"
        rules[f"{block}.attn_norm.weight"] = Rule(f"{layer}.operator_norm.weight", (hidden,))
        rules[f"{block}.ffn_norm.weight"] = Rule(f"{layer}.ffn_norm.weight", (hidden,))
        for target, (source, size) in mlp.items():
            rules[f"{block}.{target}.weight"] = Rule(f"{layer}.feed_forward.{source}.weight", size)
        if kind == "conv":
            kernel = (hidden, text.conv_L_cache)
            rules[f"{block}.shortconv.conv.weight"] = Rule(
                f"{layer}.conv.conv.weight", (hidden, 1, kernel[1]), squeezed, kernel
            )
            rules[f"{block}.shortconv.in_proj.weight"] = Rule(f"{layer}.conv.in_proj.weight", (3 * hidden, hidden))
            rules[f"{block}.shortconv.out_proj.weight"] = Rule(f"{layer}.conv.out_proj.weight", (hidden, hidden))
            continue
        for target, (source, shape) in attention.items():
            rules[f"{block}.{target}.weight"] = Rule(f"{layer}.self_attn.{source}.weight", shape)
    return rules


def squeezed(kernel: Tensor) -> Tensor:
    return np.ascontiguousarray(kernel[:, 0])


# long, and whole: a check for every setting, then a table of names, shapes and metadata
def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw, _ = text_of(config)
    raw = {"rope_theta": 1e6} | raw
    raw["block_ffn_dim_multiplier"] = float(raw.get("block_ffn_dim_multiplier") or 1)
    kinds = raw.get("layer_types")
    flags = {key: raw.pop(key) for key in ("conv_bias", "block_auto_adjust_ff_dim") if key in raw}
    text = Lfm2Text(**{**vars(args_of(Lfm2Text, raw)), **flags})
    vision: VisionArgs = args_of(VisionArgs, (config.get("vision_config") or {}) | {"image_size": BASE})
    factor, layer = int(config.get("downsample_factor", 2)), config.get("vision_feature_layer", -1)
    supported = {
        f"layers of kinds {kinds!r}": isinstance(kinds, list) and set(kinds) <= {"conv", "full_attention"},
        "a convolution with biases": not text.conv_bias,
        f"activation {vision.hidden_act} of the vision tower": vision.hidden_act == "gelu_pytorch_tanh",
        f"vision_feature_layer {layer!r}": layer == -1,
        f"positions of {vision.num_patches} patches": vision.num_patches == (BASE // vision.patch_size) ** 2,
    }
    for what, fine in supported.items():
        if not fine:
            raise EdgeVqaError(f"{what} is not supported", "use an original LFM2-VL checkpoint")
    assert isinstance(kinds, list)
    hidden, tower, projector, patch = vision.hidden_size, "vision_tower", "multi_modal_projector", vision.patch_size
    inner = int(config.get("projector_hidden_size", 2560))
    merged = hidden * factor**2
    rules = {
        "v.patch_embd.weight": Rule(
            f"{tower}.embeddings.patch_embedding.weight",
            (hidden, 3 * patch**2),
            channels_first(patch),
            (hidden, 3, patch, patch),
        ),
        "v.patch_embd.bias": Rule(f"{tower}.embeddings.patch_embedding.bias", (hidden,)),
        "v.position_embd.weight": Rule(f"{tower}.embeddings.position_embedding.weight", (vision.num_patches, hidden)),
        **biased("v.post_ln", f"{tower}.post_layernorm", hidden),
        **biased("mm.1", f"{projector}.linear_1", inner, merged),
        **biased("mm.2", f"{projector}.linear_2", text.hidden_size, inner),
    }
    if config.get("projector_use_layernorm", True):
        rules |= biased("mm.input_norm", f"{projector}.layer_norm", merged)
    for i in range(vision.num_hidden_layers):
        rules |= layer_rules(hidden, vision.intermediate_size, f"{tower}.encoder.layers.{i}", f"v.blk.{i}")
    keys = [text.kv_heads if kind == "full_attention" else 0 for kind in kinds]
    lm_metadata = text_metadata(text, "lfm2") | {
        "lfm2.attention.head_count_kv": keys,
        "lfm2.attention.layer_norm_rms_epsilon": float(text.norm_eps),
        "lfm2.feed_forward_length": text.inner,
        "lfm2.shortconv.l_cache": text.conv_L_cache,
    }
    return Plan(
        lm=lm_rules(text, kinds, "language_model"),
        vision=rules,
        lm_metadata=lm_metadata,
        vision_metadata=vision_metadata("lfm2", vision, text.hidden_size, factor, preprocessor),
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(
            patch * factor, patch * factor, 1, "bilinear", "dynamic", LOW_TOKENS // 4, LOW_TOKENS, LOW_TOKENS
        ),
        required_tokens=("<|image_start|>", "<|image_end|>"),
        unused=r"vision_tower\.head\..*|lm_head\.weight",
        renamed=(
            ("model.language_model.", "language_model."),
            ("language_model.model.", "language_model."),
            ("model.vision_tower.vision_model.", "vision_tower."),
            ("model.vision_tower.", "vision_tower."),
            ("vision_tower.vision_model.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        ),
    )


def channels_first(patch: int) -> Any:
    """A linear over the pixels of a patch, colours last -> a convolution's kernel."""

    def change(weight: Tensor) -> Tensor:
        return np.ascontiguousarray(weight.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2))

    return change
