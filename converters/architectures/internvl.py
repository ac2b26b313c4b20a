"""InternVL 2.5, 3 and 3.5 (`InternVLForConditionalGeneration`, the `-hf` layout): InternViT, pixel shuffle, two-layer MLP, and
an LM of Qwen2, Qwen3 or Llama.

Source: Zhu et al. 2025 (arXiv 2504.10479); names and shapes from `transformers`' modeling_internvl.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, Tensor, biased, idefics3
from converters.architectures.idefics3 import vision_metadata
from converters.architectures.text import TextArgs, args_of, is_tied, text_metadata, text_of, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.bundles.ready import most_patches
from edge_vqa.errors import EdgeVqaError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class VisionArgs(idefics3.VisionArgs):
    """The ViT part of config.json, with the defaults of `transformers`' InternVLVisionConfig."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "gelu"
    norm_type: str = "layer_norm"


def class_last(positions: Tensor) -> Tensor:
    """llama.cpp appends the class token behind the patches, and takes positions in that order."""
    return np.ascontiguousarray(np.roll(positions[0], -1, axis=0))


def tower_rules(v: VisionArgs, side: int, patch: int, merged: int, out: int) -> dict[str, Rule]:
    """merged: width of the patches that make a token, side by side."""
    tower, projector, hidden, inner = "vision_tower", "multi_modal_projector", v.hidden_size, v.intermediate_size
    rules = {
        "v.class_embd": Rule(f"{tower}.embeddings.cls_token", (1, 1, hidden), np.ravel, (hidden,)),
        "v.position_embd.weight": Rule(
            f"{tower}.embeddings.position_embeddings", (1, side**2 + 1, hidden), class_last, (side**2 + 1, hidden)
        ),
    }

    rules |= biased("v.patch_embd", f"{tower}.embeddings.patch_embeddings.projection", hidden, 3, patch, patch)
    rules |= biased("mm.model.mlp.0", f"{projector}.layer_norm", merged)
    rules |= biased("mm.model.mlp.1", f"{projector}.linear_1", out, merged)
    rules |= biased("mm.model.mlp.3", f"{projector}.linear_2", out, out)
    for i in range(v.num_hidden_layers):
        layer, block = f"{tower}.encoder.layer.{i}", f"v.blk.{i}"
        for short, part in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "projection_layer")):
            rules |= biased(f"{block}.attn_{short}", f"{layer}.attention.{part}", hidden, hidden)
        rules |= biased(f"{block}.ln1", f"{layer}.layernorm_before", hidden)
        rules |= biased(f"{block}.ln2", f"{layer}.layernorm_after", hidden)
        rules |= biased(f"{block}.ffn_up", f"{layer}.mlp.fc1", inner, hidden)
        rules |= biased(f"{block}.ffn_down", f"{layer}.mlp.fc2", hidden, inner)
        rules[f"{block}.ls1.weight"] = Rule(f"{layer}.lambda_1", (hidden,))
        rules[f"{block}.ls2.weight"] = Rule(f"{layer}.lambda_2", (hidden,))
    return rules


# long, and whole: a check for every setting, then a table of names, shapes and metadata
def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    raw, rope = text_of(config)
    text: TextArgs = args_of(TextArgs, raw)
    kind = raw.get("model_type", "qwen2")
    seen = dict(config.get("vision_config") or {})
    for key in ("image_size", "patch_size"):  # height and width
        if isinstance(seen.get(key), list):
            seen[key] = seen[key][0]
    vision: VisionArgs = args_of(VisionArgs, seen)
    image, patch = vision.image_size, vision.patch_size
    factor, side = round(1 / float(config.get("downsample_ratio", 0.5))), image // patch
    supported = {
        f"an LM of type {kind!r}": kind in ("llama", "qwen2", "qwen3"),
        "rope scaling": rope.get("rope_type", rope.get("type", "default")) in ("default", "dynamic"),  # beyond its length
        f"{vision.norm_type}, or norms of queries and keys, in the vision tower": vision.norm_type == "layer_norm"
        and not seen.get("use_qk_norm") and seen.get("attention_bias", True) and seen.get("use_mean_pooling", True),
        f"activation {vision.hidden_act} of the vision tower": vision.hidden_act in ("gelu", "silu"),
        f"{image} px with patches of {patch}": image % (patch * factor) == 0,
    }  # fmt: skip
    for what, fine in supported.items():
        if not fine:
            raise EdgeVqaError(f"{what} is not supported", "use an original InternVL checkpoint of up to 14 billion parameters")
    tokens = (side // factor) ** 2
    least, most = int(preprocessor.get("min_patches", 1)), most_patches(int(preprocessor.get("max_patches", 12)), tokens)
    return Plan(
        lm=text_rules(text, "language_model.model", "language_model.lm_head.weight", kind=kind),
        vision=tower_rules(vision, side, patch, vision.hidden_size * factor**2, text.hidden_size),
        lm_metadata=text_metadata(text, kind),
        vision_metadata=vision_metadata("internvl", vision, text.hidden_size, factor, IMAGENET | preprocessor),
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(image, image, tokens, "bicubic", "grid", least, tokens, tokens * (most + 1)),
        required_tokens=("<img>", "</img>"),
        optional=frozenset({"language_model.lm_head.weight"} if is_tied(config, raw) else ()),
        renamed=(
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        ),
    )
