"""T5's layers in torch, over gguf names: what calibration runs, one layer at a time.

Source: Raffel et al. 2020 (arXiv 1910.10683), section 2.1, and version 1.1's gated GELU; positions as `transformers`'
T5Attention has them: attention is not scaled, and gets a bias by how far apart two tokens are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from converters.decoder import Weights
from converters.files.parts import Half
from edge_vqa.errors import EdgeVqaError

FARTHEST = 128  # tokens apart, from where on all are alike
See = Callable[[str, Tensor], None]


def nobody(name: str, t: Tensor) -> None:
    """Sees nothing."""


@dataclass(frozen=True)
class T5:
    """What all layers share: encoder layers, decoder layers, heads, their width, the norm's epsilon."""

    layers: int
    later: int
    heads: int
    width: int
    eps: float

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def bias(self, table: Tensor, n: int, *, causal: bool) -> Tensor:
        """What is added to attention [heads, n, n], of a table [buckets, heads]; behind a token nothing, where it is causal."""
        place = torch.arange(n)
        apart = place[None] - place[:, None]  # of the key, from the query on
        buckets = len(table)
        if causal:
            ahead, apart = torch.zeros_like(apart), (-apart).clamp_min(0)
        else:
            buckets //= 2
            ahead, apart = (apart > 0) * buckets, apart.abs()
        near = buckets // 2
        far = near + (apart.clamp_min(1) / near).log() / math.log(FARTHEST / near) * (buckets - near)
        number = ahead + torch.where(apart < near, apart, far.long().clamp_max(buckets - 1))
        added = table[number].permute(2, 0, 1)
        return added.masked_fill(place[None] > place[:, None], -torch.inf) if causal else added

    def attend(self, h: Tensor, source: Tensor, w: Weights, name: str, bias: Tensor | None) -> Tensor:
        """Normed input [n, hidden] and what it attends to [m, hidden] -> heads side by side [n, heads * width]."""
        rows = [linear(x, w[f"{name}_{part}.weight"]) for part, x in zip("qkv", (h, source, source), strict=True)]
        q, k, v = (x.view(len(x), self.heads, self.width).transpose(0, 1) for x in rows)
        scores = q @ k.transpose(1, 2)
        return ((scores if bias is None else scores + bias).softmax(-1) @ v).transpose(0, 1).reshape(len(h), -1)

    def gated(self, h: Tensor, w: Weights) -> Tensor:
        """Normed input [n, hidden] -> what goes into ffn_down [n, inner]."""
        return gelu(linear(h, w["ffn_gate.weight"]), approximate="tanh") * linear(h, w["ffn_up.weight"])

    def layer(self, x: Tensor, w: Weights, bias: Tensor, encoded: Tensor | None = None, see: See = nobody) -> Tensor:
        """One layer [n, hidden] -> [n, hidden]; of the decoder, with what the encoder made. `see` gets the input of each
        linear, and the outputs of attention and of the MLP."""
        for name, source in (("attn", None), ("cross_attn", encoded)):
            if name == "cross_attn" and encoded is None:
                continue
            h = self.norm(x, w[f"{name}_norm.weight"])
            see(f"{name}_norm", h)
            a = self.attend(h, h if source is None else source, w, name, bias if source is None else None)
            see(f"{name}_o", a)
            out = linear(a, w[f"{name}_o.weight"])
            see("attention" if name == "attn" else "cross-attention", out)
            x = x + out
        h = self.norm(x, w["ffn_norm.weight"])
        see("ffn_norm", h)
        m = self.gated(h, w)
        see("ffn_down", m)
        out = linear(m, w["ffn_down.weight"])
        see("mlp", out)
        return x + out


def t5_of(lm: Half) -> T5:
    """Raises EdgeVqaError for a file that lacks what T5's has."""
    heads, layers = lm.number("attention.head_count"), lm.number("block_count")
    eps = lm.value("t5.attention.layer_norm_rms_epsilon")
    if not isinstance(eps, float):
        raise EdgeVqaError("the language model's file has no usable t5.attention.layer_norm_rms_epsilon", "convert it again")
    width = lm.number("attention.key_length", lm.number("embedding_length") // heads)
    return T5(layers, lm.number("decoder_block_count", layers), heads, width, eps)
