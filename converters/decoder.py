"""The LM's decoder layer in torch, over gguf names: what calibration runs, one layer at a time.

Llama's layer, Qwen2's and Qwen3's: RMS norm, grouped-query attention with rope, gated MLP. Where llama.cpp rotates neighbours
(`llama`) rows of queries and keys have changed places in the gguf already, and so they are rotated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from converters.files.parts import Half, Part
from edge_vqa.errors import EdgeVqaError

KNOWN = ("llama", "qwen2vl", "qwen3vl")
INTERLEAVED = ("qwen3vl",)  # time, row and column take rotation frequencies in turn, not one after the other
PARTS = (
    *("attn_norm", "attn_q", "attn_q_norm", "attn_k", "attn_k_norm", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)

Weights = dict[str, Tensor]  # "attn_q.weight" -> tensor
Spans = Sequence[Tensor]  # rows one after the other: which of its tokens sees which, bool [n, n] each


@dataclass(frozen=True)
class Decoder:
    """What all layers share. axes: by which of time, row and column each rotation frequency goes [width / 2] (M-RoPE), or
    None."""

    layers: int
    heads: int
    keys: int
    width: int
    eps: float
    frequencies: Tensor  # [width / 2]
    axes: Tensor | None
    neighbours: bool

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def angles(self, positions: Tensor) -> Tensor:
        """positions [4, n] (time, row, column, unused; all the same for text) -> angles [n, width / 2]."""
        if self.axes is None:
            return positions[0, :, None] * self.frequencies
        return positions.T[:, self.axes] * self.frequencies

    def rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        """Rope. x: [n, heads, width]."""
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = (x[..., 0::2], x[..., 1::2]) if self.neighbours else x.chunk(2, -1)
        turned = a * cos - b * sin, a * sin + b * cos
        return torch.stack(turned, -1).flatten(-2) if self.neighbours else torch.cat(turned, -1)

    def linear(self, x: Tensor, w: Weights, part: str) -> Tensor:
        """The linear layer of that name."""
        return linear(x, w[f"{part}.weight"], w.get(f"{part}.bias"))

    def attend(self, h: Tensor, w: Weights, angles: Tensor, spans: Spans | None = None) -> Tensor:
        """Normed input [n, hidden] -> heads side by side [n, heads * width], causal unless `spans` say what sees what."""
        n = len(h)
        q, k, v = (self.linear(h, w, f"attn_{part}") for part in "qkv")
        q, k = q.view(n, self.heads, self.width), k.view(n, self.keys, self.width)
        if "attn_q_norm.weight" in w:
            q, k = self.norm(q, w["attn_q_norm.weight"]), self.norm(k, w["attn_k_norm.weight"])
        q, k = self.rotate(q, angles).transpose(0, 1), self.rotate(k, angles).transpose(0, 1)
        v = v.view(n, self.keys, self.width).transpose(0, 1)
        k, v = (t.repeat_interleave(self.heads // self.keys, 0) for t in (k, v))
        if spans is None:
            spans = [torch.ones(n, n, dtype=torch.bool).tril()]
        cut = zip(*(t.split([len(seen) for seen in spans], 1) for t in (q, k, v)), strict=True)
        seen_by = [
            scaled_dot_product_attention(a[None], b[None], c[None], attn_mask=seen)[0]
            for (a, b, c), seen in zip(cut, spans, strict=True)
        ]
        return torch.cat(seen_by, 1).transpose(0, 1).reshape(n, -1)

    def gated(self, h: Tensor, w: Weights) -> Tensor:
        """Normed input [n, hidden] -> what goes into ffn_down [n, inner]."""
        return silu(self.linear(h, w, "ffn_gate")) * self.linear(h, w, "ffn_up")

    def layer(
        self, x: Tensor, w: Weights, angles: Tensor, see: Callable[[str, Tensor], None] = lambda name, t: None,
        spans: Spans | None = None,
    ) -> Tensor:  # fmt: skip
        """One layer, [n, hidden] -> [n, hidden]. `see` gets the input of each linear, and attention's and the MLP's outputs.

        x may be wider, by features of the tower that are added behind one of the first layers each (DeepStack, Meng et al.
        2024, arXiv 2406.04334): the next are added and the others handed on, [n, hidden * k] -> [n, hidden * (k - 1)].
        """
        x, *features = x.split(len(w["attn_norm.weight"]), 1)
        h = self.norm(x, w["attn_norm.weight"])
        see("attn_norm", h)
        a = self.attend(h, w, angles, spans)
        see("attn_output", a)
        out = self.linear(a, w, "attn_output")
        see("attention", out)
        x = x + out
        h = self.norm(x, w["ffn_norm.weight"])
        see("ffn_norm", h)
        m = self.gated(h, w)
        see("ffn_down", m)
        out = self.linear(m, w, "ffn_down")
        see("mlp", out)
        return torch.cat([x + out + features[0], *features[1:]], 1) if features else x + out


def decoder_of(lm: Half) -> Decoder:
    """Raises EdgeVqaError for an LM of another kind."""
    kind = lm.metadata["general.architecture"]
    blocks = {name.split(".", 2)[2].rsplit(".", 1)[0] for name in lm.tensors if name.startswith("blk.")}
    if kind not in KNOWN or not set(PARTS) >= blocks:
        raise EdgeVqaError(
            f"calibration knows the decoder layers of {' and '.join(KNOWN)}, not those of {kind}", "use rtn or hqq without it"
        )
    heads = lm.number("attention.head_count")
    keys = lm.number("attention.head_count_kv", heads)

    def value(key: str, default: float) -> float:
        found = lm.value(f"{kind}.{key}")
        return float(default if found is None else found)

    width = int(value("attention.key_length", lm.number("embedding_length") / heads))
    base = value("rope.freq_base", 10000.0)
    frequencies = 1 / base ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    if "rope_freqs.weight" in lm.tensors:
        frequencies = frequencies / tensor(lm.tensors["rope_freqs.weight"]).double()
    sections = lm.value(f"{kind}.rope.dimension_sections")
    axes = None
    if sections is not None and kind in INTERLEAVED:
        turn = torch.arange(width // 2) % 3
        axes = torch.where(torch.arange(width // 2) < 3 * torch.tensor(sections)[turn], turn, 0)
    elif sections is not None:
        axes = torch.repeat_interleave(torch.arange(3), torch.tensor(sections[:3]))
    return Decoder(
        layers=lm.number("block_count"),
        heads=heads,
        keys=keys,
        width=width,
        eps=value("attention.layer_norm_rms_epsilon", 1e-5),
        frequencies=frequencies.float(),
        axes=axes,
        neighbours=kind == "llama",
    )


def faster() -> torch.autocast:
    """A context in which matrices are multiplied in bfloat16, where this processor does that faster than in float32."""
    able = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=able)


def tensor(part: Part) -> Tensor:
    """float32; a copy of what lies in a file that cannot be written to."""
    values = part.read()
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def weights_of(lm: Half, layer: int) -> Weights:
    """One layer's tensors, float32."""
    prefix = f"blk.{layer}."
    return {name.removeprefix(prefix): tensor(part) for name, part in lm.tensors.items() if name.startswith(prefix)}
