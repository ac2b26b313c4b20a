"""Idefics3 (`Idefics3ForConditionalGeneration`): SigLIP-style ViT, pixel shuffle, one linear connector, Llama LM.

Source: Laurençon et al. 2024 (arXiv 2408.12637); names and shapes from `transformers`' modeling_idefics3.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Plan, Rule, Tensor
from edge_vqa.bundle import Preprocessing
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class TextArgs:
    """The Llama part of config.json, with the defaults of `transformers`' LlamaConfig."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width(self) -> int:
        """Size of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


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


def _args(kind: type, config: dict[str, Any]) -> Any:
    """Those keys of a config that the dataclass knows; None means the default."""
    known = {key: value for key, value in config.items() if key in kind.__dataclass_fields__ and value is not None}  # type: ignore[attr-defined]
    for key, value in known.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise EdgeVqaError(f"{key} = {value!r} in config.json is not supported", "use an original checkpoint")
    return kind(**known)


def _interleave(heads: int, name: str) -> Any:
    """Rotary halves -> pairs: `transformers` rotates the first half of a head against the second, llama.cpp neighbours."""

    def change(weight: Tensor) -> Tensor:
        rows, columns = weight.shape  # [heads * width, hidden]
        if rows % (2 * heads):
            raise EdgeVqaError(f"{name} has {rows} rows for {heads} heads", "use an original checkpoint")
        return np.ascontiguousarray(weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns))

    return change


def rope_factors(args: TextArgs, scaling: dict[str, Any]) -> Tensor:
    """Llama 3's rope scaling as frequency divisors, one per pair of dimensions, float32 [width / 2].

    Source: `transformers`' modeling_rope_utils.py, `_compute_llama3_parameters`.
    """
    base, width = float(scaling.get("rope_theta", args.rope_theta)), args.width
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    frequencies = 1.0 / base ** (np.arange(0, width, 2, dtype=np.float64) / width)
    factors = []
    for frequency in frequencies:
        length = 2 * math.pi / frequency
        if length < original / high:
            factors.append(1.0)
        elif length > original / low:
            factors.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def text_rules(args: TextArgs, prefix: str, head: str) -> dict[str, Rule]:
    """The Llama LM: checkpoint names under `prefix`, the output matrix under `head`."""
    hidden, inner, width = args.hidden_size, args.intermediate_size, args.width
    queries, keys = args.num_attention_heads * width, args.kv_heads * width
    rules = {
        f"{prefix}.embed_tokens.weight": Rule("token_embd.weight", (args.vocab_size, hidden)),
        f"{prefix}.norm.weight": Rule("output_norm.weight", (hidden,)),
        head: Rule("output.weight", (args.vocab_size, hidden)),
    }
    for i in range(args.num_hidden_layers):
        layer, block = f"{prefix}.layers.{i}", f"blk.{i}"
        q, k = f"{layer}.self_attn.q_proj.weight", f"{layer}.self_attn.k_proj.weight"
        rules |= {
            f"{layer}.input_layernorm.weight": Rule(f"{block}.attn_norm.weight", (hidden,)),
            q: Rule(f"{block}.attn_q.weight", (queries, hidden), _interleave(args.num_attention_heads, q)),
            k: Rule(f"{block}.attn_k.weight", (keys, hidden), _interleave(args.kv_heads, k)),
            f"{layer}.self_attn.v_proj.weight": Rule(f"{block}.attn_v.weight", (keys, hidden)),
            f"{layer}.self_attn.o_proj.weight": Rule(f"{block}.attn_output.weight", (hidden, queries)),
            f"{layer}.post_attention_layernorm.weight": Rule(f"{block}.ffn_norm.weight", (hidden,)),
            f"{layer}.mlp.gate_proj.weight": Rule(f"{block}.ffn_gate.weight", (inner, hidden)),
            f"{layer}.mlp.up_proj.weight": Rule(f"{block}.ffn_up.weight", (inner, hidden)),
            f"{layer}.mlp.down_proj.weight": Rule(f"{block}.ffn_down.weight", (hidden, inner)),
        }
    return rules


def text_metadata(args: TextArgs) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "llama.vocab_size": args.vocab_size,
        "llama.context_length": args.max_position_embeddings,
        "llama.embedding_length": args.hidden_size,
        "llama.block_count": args.num_hidden_layers,
        "llama.feed_forward_length": args.intermediate_size,
        "llama.rope.dimension_count": args.width,
        "llama.attention.head_count": args.num_attention_heads,
        "llama.attention.head_count_kv": args.kv_heads,
        "llama.attention.key_length": args.width,
        "llama.attention.value_length": args.width,
        "llama.attention.layer_norm_rms_epsilon": float(args.rms_norm_eps),
        "llama.rope.freq_base": float(args.rope_theta),
    }


def vision_rules(args: VisionArgs, prefix: str) -> dict[str, Rule]:
    """The ViT: checkpoint names under `prefix`."""
    hidden, inner, patches = args.hidden_size, args.intermediate_size, (args.image_size // args.patch_size) ** 2
    patch = (hidden, 3, args.patch_size, args.patch_size)
    rules = {
        f"{prefix}.embeddings.patch_embedding.weight": Rule("v.patch_embd.weight", patch),
        f"{prefix}.embeddings.patch_embedding.bias": Rule("v.patch_embd.bias", (hidden,)),
        f"{prefix}.embeddings.position_embedding.weight": Rule("v.position_embd.weight", (patches, hidden)),
        f"{prefix}.post_layernorm.weight": Rule("v.post_ln.weight", (hidden,)),
        f"{prefix}.post_layernorm.bias": Rule("v.post_ln.bias", (hidden,)),
    }
    parts: tuple[tuple[str, str, tuple[int, int] | None], ...] = (
        ("layer_norm1", "ln1", None),
        ("layer_norm2", "ln2", None),
        ("self_attn.q_proj", "attn_q", (hidden, hidden)),
        ("self_attn.k_proj", "attn_k", (hidden, hidden)),
        ("self_attn.v_proj", "attn_v", (hidden, hidden)),
        ("self_attn.out_proj", "attn_out", (hidden, hidden)),
        # llama.cpp's names: the first linear is `up`, the second `down`
        ("mlp.fc1", "ffn_up", (inner, hidden)),
        ("mlp.fc2", "ffn_down", (hidden, inner)),
    )
    for i in range(args.num_hidden_layers):
        for source, target, shape in parts:
            layer, block = f"{prefix}.encoder.layers.{i}.{source}", f"v.blk.{i}.{target}"
            rules[f"{layer}.weight"] = Rule(f"{block}.weight", shape or (hidden,))
            rules[f"{layer}.bias"] = Rule(f"{block}.bias", (shape or (hidden,))[:1])
    return rules


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    # `transformers` 5 writes the rope parameters as an object, earlier versions as two keys
    raw = dict(config.get("text_config") or {})
    scaling = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    if "rope_theta" in scaling:
        raw["rope_theta"] = scaling["rope_theta"]
    text: TextArgs = _args(TextArgs, raw)
    vision: VisionArgs = _args(VisionArgs, config.get("vision_config") or {})
    if raw.get("model_type", "llama") not in ("llama", "VLlama3"):
        raise EdgeVqaError(f"a text model of type {raw['model_type']!r} is not supported", "use a Llama-based checkpoint")
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise EdgeVqaError(f"{key} in text_config is not supported", "use a checkpoint without biases in the LM")
    if vision.hidden_act != "gelu_pytorch_tanh":
        raise EdgeVqaError(f"activation {vision.hidden_act} of the vision tower is not supported", "use an original checkpoint")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise EdgeVqaError(f"rope scaling {kind!r} is not supported", "use a checkpoint with none or Llama 3's")
    factor = int(config.get("scale_factor", 2))
    side = vision.image_size // vision.patch_size
    if vision.image_size % vision.patch_size or side % factor:
        raise EdgeVqaError(
            f"{vision.image_size} px, patches of {vision.patch_size} and scale factor {factor} do not fit each other",
            "use an original checkpoint",
        )
    rules = vision_rules(vision, "model.vision_model")
    rules["model.connector.modality_projection.proj.weight"] = Rule(
        "mm.model.fc.weight", (text.hidden_size, vision.hidden_size * factor**2)
    )
    longest = int((preprocessor.get("size") or {}).get("longest_edge", vision.image_size))
    tied = bool(config.get("tie_word_embeddings", raw.get("tie_word_embeddings", False)))
    return Plan(
        lm=text_rules(text, "model.text_model", "lm_head.weight"),
        vision=rules,
        lm_extra={"rope_freqs.weight": rope_factors(text, scaling)} if kind == "llama3" else {},
        optional=frozenset({"lm_head.weight"} if tied else ()),
        lm_metadata=text_metadata(text),
        vision_metadata={
            "clip.projector_type": "idefics3",
            "clip.use_gelu": True,
            "clip.vision.image_size": vision.image_size,
            "clip.vision.patch_size": vision.patch_size,
            "clip.vision.embedding_length": vision.hidden_size,
            "clip.vision.feed_forward_length": vision.intermediate_size,
            "clip.vision.block_count": vision.num_hidden_layers,
            "clip.vision.attention.head_count": vision.num_attention_heads,
            "clip.vision.attention.layer_norm_epsilon": float(vision.layer_norm_eps),
            "clip.vision.projection_dim": text.hidden_size,
            "clip.vision.projector.scale_factor": factor,
            "clip.vision.preproc_image_size": longest,
            "clip.vision.image_mean": [float(v) for v in preprocessor.get("image_mean", [0.5] * 3)],
            "clip.vision.image_std": [float(v) for v in preprocessor.get("image_std", [0.5] * 3)],
        },
        vocabulary=text.vocab_size,
        preprocessing=Preprocessing(vision.image_size, max(longest, vision.image_size), (side // factor) ** 2),
        image_token="<image>",
        required_tokens=("\n", "\n\n", "<fake_token_around_image>", "<global-img>", "<row_1_col_1>"),
    )
