"""Idefics3 (`Idefics3ForConditionalGeneration`): SigLIP-style ViT, pixel shuffle, one linear connector, Llama LM.

Source: Laurençon et al. 2024 (arXiv 2408.12637); names and shapes from `transformers`' modeling_idefics3.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.architectures import Plan, Rule, biased
from converters.architectures.text import args_of, is_tied, llama_plan_parts, text_metadata, text_rules
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class VisionArgs:
    """The ViT part of config.json, with the defaults of `transformers`' Idefics3VisionConfig."""

    hidden_size: int = 1152
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 32
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"


def vision_rules(args: VisionArgs, prefix: str) -> dict[str, Rule]:
    """The ViT: checkpoint names under `prefix`."""
    hidden, inner, patches = args.hidden_size, args.intermediate_size, (args.image_size // args.patch_size) ** 2
    patch = (hidden, 3, args.patch_size, args.patch_size)
    rules = {
        "v.patch_embd.weight": Rule(f"{prefix}.embeddings.patch_embedding.weight", patch),
        "v.patch_embd.bias": Rule(f"{prefix}.embeddings.patch_embedding.bias", (hidden,)),
        "v.position_embd.weight": Rule(f"{prefix}.embeddings.position_embedding.weight", (patches, hidden)),
        "v.post_ln.weight": Rule(f"{prefix}.post_layernorm.weight", (hidden,)),
        "v.post_ln.bias": Rule(f"{prefix}.post_layernorm.bias", (hidden,)),
    }
    for i in range(args.num_hidden_layers):
        rules |= layer_rules(hidden, inner, f"{prefix}.encoder.layers.{i}", f"v.blk.{i}")
    return rules


def layer_rules(hidden: int, inner: int, layer: str, block: str) -> dict[str, Rule]:
    """One encoder layer, as SigLIP and CLIP have it."""
    parts: tuple[tuple[str, str, tuple[int, ...]], ...] = (
        ("layer_norm1", "ln1", (hidden,)),
        ("layer_norm2", "ln2", (hidden,)),
        ("self_attn.q_proj", "attn_q", (hidden, hidden)),
        ("self_attn.k_proj", "attn_k", (hidden, hidden)),
        ("self_attn.v_proj", "attn_v", (hidden, hidden)),
        ("self_attn.out_proj", "attn_out", (hidden, hidden)),
        # llama.cpp's names: the first linear is `up`, the second `down`
        ("mlp.fc1", "ffn_up", (inner, hidden)),
        ("mlp.fc2", "ffn_down", (hidden, inner)),
    )
    rules: dict[str, Rule] = {}
    for source, target, shape in parts:
        rules |= biased(f"{block}.{target}", f"{layer}.{source}", *shape)
    return rules


def vision_metadata(
    projector: str, args: VisionArgs, out: int, factor: int, statistics: dict[str, Any], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    """clip.vision keys of a ViT whose patches are merged factor x factor. out: width of the LM; statistics: of
    preprocessor_config.json; more: keys of this projector alone."""
    return {
        "clip.projector_type": projector,
        "clip.use_silu" if args.hidden_act == "silu" else "clip.use_gelu": True,
        "clip.vision.image_size": args.image_size,
        "clip.vision.patch_size": args.patch_size,
        "clip.vision.embedding_length": args.hidden_size,
        "clip.vision.feed_forward_length": args.intermediate_size,
        "clip.vision.block_count": args.num_hidden_layers,
        "clip.vision.attention.head_count": args.num_attention_heads,
        "clip.vision.attention.layer_norm_epsilon": float(args.layer_norm_eps),
        "clip.vision.projection_dim": out,
        "clip.vision.projector.scale_factor": factor,
        **(more or {}),
        "clip.vision.image_mean": [float(v) for v in statistics.get("image_mean", [0.5] * 3)],
        "clip.vision.image_std": [float(v) for v in statistics.get("image_std", [0.5] * 3)],
    }


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    text, raw, extra = llama_plan_parts(config)
    vision: VisionArgs = args_of(VisionArgs, config.get("vision_config") or {})
    if vision.hidden_act != "gelu_pytorch_tanh":
        raise EdgeVqaError(f"activation {vision.hidden_act} of the vision tower is not supported", "use an original checkpoint")
    factor = int(config.get("scale_factor", 2))
    side = vision.image_size // vision.patch_size  # what is left over at the right and below is not seen
    if side % factor:
        raise EdgeVqaError(
            f"{vision.image_size} px, patches of {vision.patch_size} and scale factor {factor} do not fit each other",
            "use an original checkpoint",
        )
    rules = vision_rules(vision, "model.vision_model")
    rules["mm.model.fc.weight"] = Rule(
        "model.connector.modality_projection.proj.weight", (text.hidden_size, vision.hidden_size * factor**2)
    )
    longest = int((preprocessor.get("size") or {}).get("longest_edge", vision.image_size))
    return Plan(
        lm=text_rules(text, "model.text_model", "lm_head.weight"),
        vision=rules,
        lm_extra=extra,
        optional=frozenset({"lm_head.weight"} if is_tied(config, raw) else ()),
        lm_metadata=text_metadata(text),
        vision_metadata=vision_metadata(
            "idefics3", vision, text.hidden_size, factor, preprocessor, {"clip.vision.preproc_image_size": longest}
        ),
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(vision.image_size, max(longest, vision.image_size), (side // factor) ** 2),
        required_tokens=("\n", "\n\n", "<fake_token_around_image>", "<global-img>", "<row_1_col_1>"),
    )
