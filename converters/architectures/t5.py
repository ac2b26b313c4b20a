"""T5 as Flan-T5 has it (version 1.1): an encoder that sees all of its input, and a decoder that attends to what it made.

Names and shapes from `transformers`' modeling_t5.py; gguf names from llama.cpp's gguf-py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.architectures import Rule
from converters.architectures.text import args_of
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class T5Args:
    """The text part of config.json, with the defaults of `transformers`' T5Config."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    n_positions: int = 512
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    decoder_start_token_id: int = 0

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers


def args(raw: dict[str, Any]) -> T5Args:
    """Raises EdgeVqaError for a T5 that llama.cpp computes differently."""
    made: T5Args = args_of(T5Args, {key: value for key, value in raw.items() if not isinstance(value, bool)})
    scaled = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True) is not False)
    supported = {
        f"feed_forward_proj {made.feed_forward_proj!r}": made.feed_forward_proj == "gated-gelu",
        "a T5 of version 1.0, which scales what goes into its output matrix,": not scaled,
        "a decoder of more layers than the encoder": made.decoder_layers <= made.num_layers,  # llama.cpp does not load it
        f"relative_attention_max_distance {made.relative_attention_max_distance}": made.relative_attention_max_distance == 128,
    }
    for what, fine in supported.items():
        if not fine:
            raise EdgeVqaError(f"{what} is not supported", "use a checkpoint with Flan-T5")
    return made


def rules(made: T5Args, prefix: str) -> dict[str, Rule]:
    """By gguf name: checkpoint names under `prefix`."""
    hidden, wide = made.d_model, made.num_heads * made.d_kv
    found = {
        "token_embd.weight": Rule(f"{prefix}.shared.weight", (made.vocab_size, hidden)),
        "output.weight": Rule(f"{prefix}.lm_head.weight", (made.vocab_size, hidden)),
        "enc.output_norm.weight": Rule(f"{prefix}.encoder.final_layer_norm.weight", (hidden,)),
        "dec.output_norm.weight": Rule(f"{prefix}.decoder.final_layer_norm.weight", (hidden,)),
    }

    def attention(target: str, source: str) -> None:
        for short in "qkvo":
            shape = (hidden, wide) if short == "o" else (wide, hidden)
            found[f"{target}_{short}.weight"] = Rule(f"{source}.{short}.weight", shape)

    for half, stack, layers in (("enc", "encoder", made.num_layers), ("dec", "decoder", made.decoder_layers)):
        for i in range(layers):
            layer, block = f"{prefix}.{stack}.block.{i}.layer", f"{half}.blk.{i}"
            attention(f"{block}.attn", f"{layer}.0.SelfAttention")
            found[f"{block}.attn_norm.weight"] = Rule(f"{layer}.0.layer_norm.weight", (hidden,))
            if i == 0:  # which all layers use
                table = (made.relative_attention_num_buckets, made.num_heads)
                found[f"{block}.attn_rel_b.weight"] = Rule(f"{layer}.0.SelfAttention.relative_attention_bias.weight", table)
            if half == "dec":
                attention(f"{block}.cross_attn", f"{layer}.1.EncDecAttention")
                found[f"{block}.cross_attn_norm.weight"] = Rule(f"{layer}.1.layer_norm.weight", (hidden,))
            feed = f"{layer}.{2 if half == 'dec' else 1}"
            found |= {
                f"{block}.ffn_norm.weight": Rule(f"{feed}.layer_norm.weight", (hidden,)),
                f"{block}.ffn_gate.weight": Rule(f"{feed}.DenseReluDense.wi_0.weight", (made.d_ff, hidden)),
                f"{block}.ffn_up.weight": Rule(f"{feed}.DenseReluDense.wi_1.weight", (made.d_ff, hidden)),
                f"{block}.ffn_down.weight": Rule(f"{feed}.DenseReluDense.wo.weight", (hidden, made.d_ff)),
            }
    return found


def metadata(made: T5Args) -> dict[str, Any]:
    """llama.cpp's keys."""
    values = {
        "context_length": made.n_positions,
        "embedding_length": made.d_model,
        "feed_forward_length": made.d_ff,
        "block_count": made.num_layers,
        "decoder_block_count": made.decoder_layers,
        "attention.head_count": made.num_heads,
        "attention.key_length": made.d_kv,
        "attention.value_length": made.d_kv,
        "attention.layer_norm_epsilon": float(made.layer_norm_epsilon),
        "attention.relative_buckets_count": made.relative_attention_num_buckets,
        "attention.layer_norm_rms_epsilon": float(made.layer_norm_epsilon),
        "decoder_start_token_id": made.decoder_start_token_id,
    }
    return {"general.architecture": "t5"} | {f"t5.{key}": value for key, value in values.items()}
