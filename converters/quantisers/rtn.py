"""Round to nearest in llama.cpp's types, without calibration data: which type each tensor of the LM gets.

A quantisation type of llama.cpp is a mix: K-types spend more bits on the tensors that suffer most. The rules are those of
llama.cpp's `llama_tensor_get_type_impl` (src/llama-quant.cpp), so that files are the same as `llama-quantize` makes them,
with two differences: rows that a K-type cannot take, see ODD_ROWS, and two mixes of our own. llama.cpp's 4-bit mixes
keep the output matrix, which is often the embedding too, at 6.6 bits; with the large vocabularies of small MLLMs no such file
stays below 30 % of bf16. `q4_k` is 4.5 bits everywhere but 5.5 in the output matrix and in the values of attention.
`q4_k_xs` is 4.5 bits everywhere but 3.4, in every tenth layer 2.6, in the MLP's down projections, a fifth to a third of all
weights: made for recovery.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from converters import ggml

# name -> (tensor type, llama_ftype, tensor type of the output matrix)
TYPES = {
    "q8_0": ("q8_0", 7, "q8_0"),
    "q6_k": ("q6_k", 18, "q6_k"),
    "q5_k_m": ("q5_k", 17, "q6_k"),
    "q4_k_m": ("q4_k", 15, "q6_k"),
    "q4_k_s": ("q4_k", 14, "q6_k"),
    "q4_k": ("q4_k", 14, "q5_k"),
    "q4_k_xs": ("q4_k", 14, "q4_k"),
    "q4_1": ("q4_1", 3, "q6_k"),
    "q4_0": ("q4_0", 2, "q6_k"),
    "iq4_nl": ("iq4_nl", 25, "q6_k"),
    "q3_k_m": ("q3_k", 12, "q6_k"),
    "q3_k_s": ("q3_k", 11, "q6_k"),
    "q2_k": ("q2_k", 10, "q6_k"),
}
OWN = ("q4_k", "q4_k_xs")
# Small or delicate tensors of other architectures, which llama.cpp does not quantise either (tensor_allows_quantization)
FLOAT_ONLY = (
    r"_norm\.weight$|ffn_gate_inp|position_embd|pos_embd|rel_pos|patch_embd|patch_merger|token_types|ssm_conv1d|shortconv"
    r"|time_mix|altup|laurel|per_layer_model_proj|attn_rel_b|sam\.n"
)
FLOATS = {"f32": 0, "f16": 1, "bf16": 32}
# Rows that are no multiple of 256 (576 in SmolVLM-256M) go into blocks of 32. llama.cpp takes q5_0 for q4_k, a fifth
# larger, and q4_0 below; iq4_nl has the size of q4_0 and a table of levels that fits weights better. For q5_k it takes q5_1.
ODD_ROWS = {"q2_k": "iq4_nl", "q3_k": "iq4_nl", "q4_k": "iq4_nl", "q5_k": "q5_0", "q6_k": "q8_0"}


@dataclass(frozen=True)
class Shape:
    """What the rules look at: the LM's layers and how many query heads share a key head."""

    layers: int
    heads_per_key: int


def _more_bits(i: int, n: int) -> bool:
    """The layers that get more bits in the _M mixes: first and last eighth, and every third in between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _type(name: str, type_: str, shape: Shape, v_seen: int, v_total: int, down_seen: int) -> str:
    plain = TYPES[type_][0]
    part = re.sub(r"^((enc|dec)\.)?blk\.\d+\.", "", name)
    if part.endswith("attn_v.weight"):  # T5's cross-attention too
        if type_ == "q2_k":
            return "q4_k" if shape.heads_per_key >= 4 else "q3_k"
        if type_ == "q3_k_m":
            return "q5_k" if v_seen < 2 else "q4_k"
        if type_ in ("q4_k_m", "q5_k_m") and _more_bits(v_seen, v_total):
            return "q6_k"
        if type_ == "q4_k" or (type_ == "q4_k_s" and v_seen < 4):
            return "q5_k"
        if type_ == "iq4_nl" and shape.heads_per_key >= 4:
            return "q5_k"
    elif part == "ffn_down.weight":
        if type_ == "q4_k_xs":
            return "q2_k" if down_seen % 10 == 5 else "q3_k"
        if type_ == "q2_k":
            return "q3_k"
        if type_ == "q3_k_m":
            return "q5_k" if down_seen < shape.layers // 16 else "q4_k"
        if type_ in ("q4_k_m", "q5_k_m") and _more_bits(down_seen, shape.layers):
            return "q6_k"
        if type_ in ("q4_k_s", "iq4_nl") and down_seen < shape.layers // 8:
            return "q5_k"
    elif part == "attn_output.weight":
        return {"q2_k": "q3_k", "q3_k_m": "q4_k"}.get(type_, plain)
    return plain


def tensor_types(tensors: Iterable[tuple[str, tuple[int, ...]]], type_: str, shape: Shape) -> dict[str, str]:
    """gguf name -> stored type, for the LM's tensors in file order with their shapes (slowest first).

    Vectors stay f32. `f32`, `f16` and `bf16` store every matrix so.
    """
    tensors = list(tensors)
    names = [name for name, _ in tensors]
    chosen, v_seen, down_seen = {}, 0, 0
    for name, size in tensors:
        if len(size) < 2 or not name.endswith(".weight") or re.search(FLOAT_ONLY, name):
            chosen[name] = "f32"
            continue
        if type_ in FLOATS:
            chosen[name] = type_
            continue
        if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in names):
            wanted = TYPES[type_][2]
        else:
            v_total = sum(other.endswith("attn_v.weight") for other in names)
            wanted = _type(name, type_, shape, v_seen, v_total, down_seen)
            v_seen += name.endswith("attn_v.weight")
            down_seen += name.endswith("ffn_down.weight")
        chosen[name] = wanted if ggml.fits(wanted, size) else ODD_ROWS.get(wanted, "f16")
        if not ggml.fits(chosen[name], size):
            chosen[name] = "f16"
    return chosen
