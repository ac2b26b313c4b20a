"""The LM's decoder layer in torch, over gguf names: what calibration runs, one layer at a time.

Llama's layer, Qwen2's and Qwen3's: RMS norm, grouped-query attention with rope, gated MLP. Where llama.cpp rotates neighbours
(`llama`) rows of queries and keys have changed places in the gguf already, and so they are rotated here. Gemma 3's, which has
norms behind attention and MLP too, and most of whose layers see a window; LFM2's, most of which have a short convolution in the
place of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv1d, gelu, linear, pad, scaled_dot_product_attention, silu

from converters.files.parts import Half, Part
from edge_vqa.errors import EdgeVqaError

PLAIN = ("llama", "qwen2", "qwen2vl", "qwen3", "qwen3vl")  # all layers alike
KNOWN = (*PLAIN, "gemma3", "lfm2")
PATTERN = 6  # every sixth layer of Gemma 3 sees everything
INTERLEAVED = ("qwen3vl",)  # time, row and column take rotation frequencies in turn, not one after the other
PARTS = (
    *("attn_norm", "attn_q", "attn_q_norm", "attn_k", "attn_k_norm", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
MORE = {
    "gemma3": ("post_attention_norm", "post_ffw_norm"),
    "lfm2": ("shortconv.in_proj", "shortconv.conv", "shortconv.out_proj"),
}

Weights = dict[str, Tensor]  # "attn_q.weight" -> tensor
Spans = Sequence[Tensor]  # rows one after the other: which of its tokens sees which, bool [n, n] each


@dataclass(frozen=True)
class Place:
    """Where the tokens of a prompt stand: angles [n, width / 2], and which sees which, bool [n, n]; near ones in layers that
    see a window."""

    angles: Tensor
    seen: Tensor
    near_angles: Tensor
    near_seen: Tensor


@dataclass(frozen=True)
class Decoder:
    """What all layers share. axes: by which of time, row and column each rotation frequency goes [width / 2] (M-RoPE), or
    None. kind: llama.cpp's name of the LM. near, window: Gemma 3's frequencies in layers that see a window, and its tokens."""

    layers: int
    heads: int
    keys: int
    width: int
    eps: float
    frequencies: Tensor  # [width / 2]
    axes: Tensor | None
    kind: str
    near: Tensor
    window: int

    @property
    def neighbours(self) -> bool:
        """Whether rotation pairs neighbours, not halves."""
        return self.kind == "llama"

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def angles(self, positions: Tensor) -> Tensor:
        """positions [4, n] (time, row, column, unused; all the same for text) -> angles [n, width / 2]."""
        if self.axes is None:
            return positions[0, :, None] * self.frequencies
        return positions.T[:, self.axes] * self.frequencies

    def place(self, positions: Tensor, vision: Tensor) -> Place:
        """positions [4, n], vision: bool [n], a picture's tokens, which Gemma 3 lets see each other."""
        n = positions.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        near = seen.clone()
        if self.kind == "gemma3":
            seen |= vision[:, None] & vision
            near = seen & torch.ones(n, n, dtype=torch.bool).triu(1 - self.window)
        return Place(self.angles(positions), seen, positions[0, :, None] * self.near, near)

    def at(self, place: Place, number: int) -> tuple[Tensor, Spans]:
        """Angles and what sees what in a layer."""
        if self.kind == "gemma3" and (number + 1) % PATTERN:
            return place.near_angles, [place.near_seen]
        return place.angles, [place.seen]

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
        gate = self.linear(h, w, "ffn_gate")
        return (gelu(gate, approximate="tanh") if self.kind == "gemma3" else silu(gate)) * self.linear(h, w, "ffn_up")

    def mixed(self, h: Tensor, w: Weights, angles: Tensor, spans: Spans | None = None) -> Tensor:
        """Normed input -> what goes into the last matrix of attention, or of the convolution in its place."""
        if "shortconv.in_proj.weight" not in w:
            return self.attend(h, w, angles, spans)
        before, behind, x = self.linear(h, w, "shortconv.in_proj").chunk(3, 1)
        kernel = w["shortconv.conv.weight"]  # [hidden, taps], of which the last is for the token itself
        taps = kernel.shape[1]
        reached = pad((before * x).T, (taps - 1, 0))  # [hidden, taps - 1 + n]
        return behind * conv1d(reached[None], kernel[:, None], groups=len(kernel))[0].T

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
        a = self.mixed(h, w, angles, spans)
        see("attn_output", a)
        out = self.linear(a, w, "shortconv.out_proj" if "shortconv.out_proj.weight" in w else "attn_output")
        see("attention", out)
        x = x + (self.norm(out, w["post_attention_norm.weight"]) if "post_attention_norm.weight" in w else out)
        h = self.norm(x, w["ffn_norm.weight"])
        see("ffn_norm", h)
        m = self.gated(h, w)
        see("ffn_down", m)
        out = self.linear(m, w, "ffn_down")
        see("mlp", out)
        if "post_ffw_norm.weight" in w:
            out = self.norm(out, w["post_ffw_norm.weight"])
        return torch.cat([x + out + features[0], *features[1:]], 1) if features else x + out


def decoder_of(lm: Half) -> Decoder:
    """Raises EdgeVqaError for an LM of another kind."""
    kind = lm.metadata["general.architecture"]
    blocks = {name.split(".", 2)[2].rsplit(".", 1)[0] for name in lm.tensors if name.startswith("blk.")}
    if kind not in KNOWN or not {*PARTS, *MORE.get(kind, ())} >= blocks:
        raise EdgeVqaError(
            f"calibration knows the layers of {', '.join(KNOWN)}, not those of {kind}", "use rtn or hqq without it"
        )
    heads = lm.number("attention.head_count")
    keys = lm.number("attention.head_count_kv", heads)

    def value(key: str, default: float) -> float:
        found = lm.value(f"{kind}.{key}")
        return float(default if found is None else found)

    width = int(value("attention.key_length", lm.number("embedding_length") / heads))
    base = value("rope.freq_base", 10000.0)
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    frequencies = 1 / base**exponents / (value("rope.scaling.factor", 1.0) if kind == "gemma3" else 1.0)
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
        kind=kind,
        near=(1 / value("rope.freq_base_swa", 10000.0) ** exponents).float(),
        window=int(value("attention.sliding_window", 1)),
    )


def faster() -> torch.autocast:
    """A context in which matrices are multiplied in bfloat16, where this processor does that faster than in float32."""
    able = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=able)


def tensor(part: Part) -> Tensor:
    """float32; a copy of what lies in a file that cannot be written to."""
    values = part.read()
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def weights_of(lm: Half, layer: int, half: str = "") -> Weights:
    """One layer's tensors, float32. half: `enc.` or `dec.` of an LM that has both."""
    prefix = f"{half}blk.{layer}."
    return {name.removeprefix(prefix): tensor(part) for name, part in lm.tensors.items() if name.startswith(prefix)}


def last_norm(lm: Half) -> Part:
    """The norm before the output matrix."""
    return lm.tensors["output_norm.weight" if "output_norm.weight" in lm.tensors else "token_embd_norm.weight"]


def output(lm: Half) -> Part:
    """The output matrix, or the embedding in its place."""
    return lm.tensors["output.weight" if "output.weight" in lm.tensors else "token_embd.weight"]
