"""LLaVA-1.5 (`LlavaForConditionalGeneration`, `llava-hf` layout): CLIP ViT to its penultimate layer, two-layer MLP, Llama LM.

Source: Liu et al. 2023 (arXiv 2310.03744); names and shapes from `transformers`' modeling_llava.py and modeling_clip.py.
llama.cpp's own converter takes this class for Pixtral.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.architectures import Plan, Rule
from converters.architectures.idefics3 import layer_rules
from converters.architectures.qwen2_vl import MEAN, STD
from converters.architectures.text import args_of, is_tied, llama_plan_parts, text_metadata, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class VisionArgs:
    """The CLIP part of config.json, with the defaults of `transformers`' CLIPVisionConfig."""

    model_type: str = "clip_vision_model"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


ACTIVATIONS = {"quick_gelu": {}, "gelu": {"clip.use_gelu": True}}  # llama.cpp's own is quick_gelu


# long, and whole: a check for every setting, then a table of names, shapes and metadata
def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    text, raw, extra = llama_plan_parts(config)
    vision: VisionArgs = args_of(VisionArgs, config.get("vision_config") or {})
    strategy, layer = config.get("vision_feature_select_strategy", "default"), config.get("vision_feature_layer", -2)
    act = config.get("projector_hidden_act", "gelu")
    supported = {
        f"a vision tower of type {vision.model_type!r}": vision.model_type == "clip_vision_model",
        f"activation {vision.hidden_act} of the vision tower": vision.hidden_act in ACTIVATIONS,
        f"vision_feature_select_strategy {strategy!r}": strategy == "default",
        f"vision_feature_layer {layer!r}": isinstance(layer, int) and -vision.num_hidden_layers <= layer < 0,
        f"activation {act} of the projector": act == "gelu",
        f"{vision.image_size} px with patches of {vision.patch_size}": vision.image_size % vision.patch_size == 0,
        "a projector without biases": config.get("multimodal_projector_bias", True),
    }
    for what, fine in supported.items():
        if not fine:
            raise EdgeVqaError(f"{what} is not supported", "use an original LLaVA-1.5 checkpoint")
    hidden, tower, projector = vision.hidden_size, "vision_tower.vision_model", "multi_modal_projector"
    patches = (vision.image_size // vision.patch_size) ** 2
    kernel = (hidden, 3, vision.patch_size, vision.patch_size)
    rules = {
        "v.class_embd": Rule(f"{tower}.embeddings.class_embedding", (hidden,)),
        "v.patch_embd.weight": Rule(f"{tower}.embeddings.patch_embedding.weight", kernel),
        "v.position_embd.weight": Rule(f"{tower}.embeddings.position_embedding.weight", (patches + 1, hidden)),
        "v.pre_ln.weight": Rule(f"{tower}.pre_layrnorm.weight", (hidden,)),
        "v.pre_ln.bias": Rule(f"{tower}.pre_layrnorm.bias", (hidden,)),
        "mm.0.weight": Rule(f"{projector}.linear_1.weight", (text.hidden_size, hidden)),
        "mm.0.bias": Rule(f"{projector}.linear_1.bias", (text.hidden_size,)),
        "mm.2.weight": Rule(f"{projector}.linear_2.weight", (text.hidden_size, text.hidden_size)),
        "mm.2.bias": Rule(f"{projector}.linear_2.bias", (text.hidden_size,)),
    }
    used = vision.num_hidden_layers + 1 + layer  # hidden state number `layer`, counted from the embeddings
    for i in range(used):
        rules |= layer_rules(hidden, vision.intermediate_size, f"{tower}.encoder.layers.{i}", f"v.blk.{i}")
    later = "|".join(str(i) for i in range(used, vision.num_hidden_layers))
    return Plan(
        lm=text_rules(text, "language_model.model", "language_model.lm_head.weight"),
        vision=rules,
        lm_metadata=text_metadata(text),
        vision_metadata={
            "clip.projector_type": "mlp",
            **ACTIVATIONS[vision.hidden_act],
            "clip.vision.image_size": vision.image_size,
            "clip.vision.patch_size": vision.patch_size,
            "clip.vision.embedding_length": hidden,
            "clip.vision.feed_forward_length": vision.intermediate_size,
            # Layers behind the one that is looked at are left out; without the second key llama.cpp would skip one more.
            "clip.vision.block_count": used,
            "clip.vision.feature_layer": [used],
            "clip.vision.attention.head_count": vision.num_attention_heads,
            "clip.vision.attention.layer_norm_epsilon": float(vision.layer_norm_eps),
            "clip.vision.projection_dim": text.hidden_size,
            "clip.vision.image_mean": [float(v) for v in preprocessor.get("image_mean", MEAN)],
            "clip.vision.image_std": [float(v) for v in preprocessor.get("image_std", STD)],
        },
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(vision.image_size, vision.image_size, patches, "bicubic", "crop"),
        lm_extra=extra,
        optional=frozenset({"language_model.lm_head.weight"} if is_tied(config, raw) else ()),
        unused=rf"{tower}\.(post_layernorm\..*|embeddings\.position_ids|encoder\.layers\.({later or 'none'})\..*)",
        renamed=(
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.vision_tower.vision_model.", f"{tower}."),
            ("model.vision_tower.", f"{tower}."),
            ("vision_tower.vision_model.", f"{tower}."),
            ("vision_tower.", f"{tower}."),
            ("model.multi_modal_projector.", f"{projector}."),
        ),
    )
