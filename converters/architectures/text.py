"""The language models: Llama's decoder layer; Qwen2's, which differs by three biases and by how it rotates; Qwen3's, which has
norms of queries and keys instead of the biases.

Names and shapes from `transformers`' modeling_llama.py and modeling_qwen2_vl.py; gguf names from llama.cpp's gguf-py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.architectures import Rule, Tensor
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class TextArgs:
    """The text part of config.json, with the defaults of `transformers`' LlamaConfig."""

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


def args_of(kind: type, config: dict[str, Any]) -> Any:
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


def text_rules(args: TextArgs, prefix: str, head: str, *, kind: str = "llama") -> dict[str, Rule]:
    """By gguf name: checkpoint names under `prefix`, the output matrix under `head`.

    kind: `llama`, where llama.cpp rotates neighbours and `transformers` halves, so that rows of queries and keys change places;
    `qwen2`, with biases of queries, keys and values; `qwen3`, with norms of queries and keys.
    """
    hidden, inner, width = args.hidden_size, args.intermediate_size, args.width
    queries, keys = args.num_attention_heads * width, args.kv_heads * width
    rules = {
        "token_embd.weight": Rule(f"{prefix}.embed_tokens.weight", (args.vocab_size, hidden)),
        "output_norm.weight": Rule(f"{prefix}.norm.weight", (hidden,)),
        "output.weight": Rule(head, (args.vocab_size, hidden)),
    }
    for i in range(args.num_hidden_layers):
        layer, block = f"{prefix}.layers.{i}", f"blk.{i}"
        rules[f"{block}.attn_norm.weight"] = Rule(f"{layer}.input_layernorm.weight", (hidden,))
        for short, heads, rows in (("q", args.num_attention_heads, queries), ("k", args.kv_heads, keys), ("v", 0, keys)):
            source, target = f"{layer}.self_attn.{short}_proj", f"{block}.attn_{short}"
            change = _interleave(heads, f"{source}.weight") if kind == "llama" and heads else None
            rules[f"{target}.weight"] = Rule(f"{source}.weight", (rows, hidden), change)
            if kind == "qwen2":
                rules[f"{target}.bias"] = Rule(f"{source}.bias", (rows,))
            if kind == "qwen3" and heads:
                rules[f"{target}_norm.weight"] = Rule(f"{layer}.self_attn.{short}_norm.weight", (width,))
        rules |= {
            f"{block}.attn_output.weight": Rule(f"{layer}.self_attn.o_proj.weight", (hidden, queries)),
            f"{block}.ffn_norm.weight": Rule(f"{layer}.post_attention_layernorm.weight", (hidden,)),
            f"{block}.ffn_gate.weight": Rule(f"{layer}.mlp.gate_proj.weight", (inner, hidden)),
            f"{block}.ffn_up.weight": Rule(f"{layer}.mlp.up_proj.weight", (inner, hidden)),
            f"{block}.ffn_down.weight": Rule(f"{layer}.mlp.down_proj.weight", (hidden, inner)),
        }
    return rules


def text_metadata(args: TextArgs, architecture: str = "llama") -> dict[str, Any]:
    """llama.cpp's keys; `architecture` is its name of the LM."""
    values = {
        "vocab_size": args.vocab_size,
        "context_length": args.max_position_embeddings,
        "embedding_length": args.hidden_size,
        "block_count": args.num_hidden_layers,
        "feed_forward_length": args.intermediate_size,
        "rope.dimension_count": args.width,
        "attention.head_count": args.num_attention_heads,
        "attention.head_count_kv": args.kv_heads,
        "attention.key_length": args.width,
        "attention.value_length": args.width,
        "attention.layer_norm_rms_epsilon": float(args.rms_norm_eps),
        "rope.freq_base": float(args.rope_theta),
    }
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in values.items()}


def text_of(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text part of config.json, which older files keep at the top level, and its rope parameters.

    `transformers` 5 writes the rope parameters as one object, earlier versions as two keys.
    """
    raw = dict(config["text_config"] if isinstance(config.get("text_config"), dict) else config)
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    if "rope_theta" in rope:
        raw["rope_theta"] = rope["rope_theta"]
    return raw, rope


def is_tied(config: dict[str, Any], raw: dict[str, Any], *, default: bool = False) -> bool:
    """Whether the LM's output matrix is its embedding."""
    return bool(config.get("tie_word_embeddings", raw.get("tie_word_embeddings", default)))


def refuse_biases(raw: dict[str, Any]) -> None:
    """Llama's decoder has none; a config that asks for some is another model."""
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise EdgeVqaError(f"{key} in text_config is not supported", "use a checkpoint without biases in the LM")


def llama_plan_parts(config: dict[str, Any]) -> tuple[TextArgs, dict[str, Any], dict[str, Tensor]]:
    """Arguments of a Llama LM, its raw config, and the rope factors that go into the gguf as a tensor."""
    raw, rope = text_of(config)
    args: TextArgs = args_of(TextArgs, raw)
    if raw.get("model_type", "llama") not in ("llama", "VLlama3"):
        raise EdgeVqaError(f"a text model of type {raw['model_type']!r} is not supported", "use a Llama-based checkpoint")
    refuse_biases(raw)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise EdgeVqaError(f"rope scaling {kind!r} is not supported", "use a checkpoint with none or Llama 3's")
    return args, raw, {"rope_freqs.weight": rope_factors(args, rope)} if kind == "llama3" else {}
