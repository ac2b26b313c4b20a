"""An ONNX graph of a vision tower under construction: nodes and constants from gguf-named weights, without torch.

Normalisation of the pixels is folded into the patch weights; attention, GELU, layer norms with their residuals and 8-bit
products are the fused operators of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converters.files.parts import Half
from converters.ggml import Floats
from edge_vqa.errors import EdgeVqaError

CODES = 127  # largest 8-bit code of a weight
CONTRIB = "com.microsoft"


class Graph:
    """Nodes and constants under construction. Values are named as ONNX has it, by strings."""

    def __init__(self, tower: Half, type_: str, count: Callable[[int], None]) -> None:
        self._tower, self._type, self._count = tower, type_, count
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._made = 0

    def number(self, key: str) -> Any:
        """A value of the tower's metadata, `clip.vision.` left out."""
        found = self.setting(f"clip.vision.{key}")
        if found is None:
            raise EdgeVqaError(f"the vision tower lacks clip.vision.{key}", "use an original checkpoint")
        return found

    def setting(self, key: str) -> Any:
        """A value of the tower's metadata, or None."""
        return self._tower.value(key)

    def has(self, name: str) -> bool:
        return name in self._tower.tensors

    def weight(self, name: str) -> Floats:
        part = self._tower.tensors.get(name)
        if part is None:
            raise EdgeVqaError(f"the vision tower lacks {name}", "use an original checkpoint")
        values = part.read()
        self._count(values.size)
        return values

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output; its name."""
        self._made += 1
        name = f"{kind}_{self._made}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def output(self, value: str, name: str) -> None:
        """Give a value the name of one of the graph's outputs."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        self._made += 1
        name = f"constant_{self._made}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def stored(self, values: Floats) -> str:
        """A matrix that is stored as the graph's type allows, and computed with in float32."""
        if self._type == "f32":
            return self.constant(values)
        return self.op("Cast", self.constant(values, np.float16), to=TensorProto.FLOAT)

    def linear(self, x: str, weight: Floats, bias: Floats | None, *, exact: bool = False) -> str:
        """x [..., inputs] @ weight [outputs, inputs].T + bias; `exact`: in float32 whatever the type."""
        if self._type == "int8" and not exact:
            scale = np.maximum(np.abs(weight).max(1), 1e-12) / CODES  # [outputs]
            codes = np.round(weight / scale[:, None])
            names = [self.constant(codes.T, np.int8), self.constant(scale)]
            names += ["", self.constant(bias)] if bias is not None else []
            return self.op("DynamicQuantizeMatMul", x, *names, domain=CONTRIB)
        y = self.op("MatMul", x, self.stored(weight.T))
        return y if bias is None else self.op("Add", y, self.constant(bias))

    def named(self, x: str, name: str, *, exact: bool = False, scale: str = "") -> str:
        """The linear layer of that name; scale: the weight its outputs are multiplied by, if the tower has it."""
        bias = self.weight(f"{name}.bias") if self.has(f"{name}.bias") else None
        weight = self.weight(f"{name}.weight")
        if self.has(scale):
            by = self.weight(scale)
            weight, bias = weight * by[:, None], None if bias is None else bias * by
        return self.linear(x, weight, bias, exact=exact)

    def norm(self, x: str, name: str, epsilon: float | None = None) -> str:
        """The layer norm of that name; epsilon: other than the tower's."""
        epsilon = float(self.number("attention.layer_norm_epsilon")) if epsilon is None else epsilon
        weights = self.constant(self.weight(f"{name}.weight")), self.constant(self.weight(f"{name}.bias"))
        return self.op("LayerNormalization", x, *weights, epsilon=epsilon)

    def activation(self, x: str) -> str:
        """What the metadata says: GELU, in CLIP exact and in SigLIP by tanh; SiLU; else x * sigmoid(1.702 x)."""
        if not self.setting("clip.use_gelu"):
            return self.op("QuickGelu", x, domain=CONTRIB, alpha=1.0 if self.setting("clip.use_silu") else 1.702)
        return self.op("Gelu", x) if self.has("v.class_embd") else self.op("FastGelu", x, domain=CONTRIB)

    # -- parts of a tower ---------------------------------------------------------------------------------------------

    def patches(self, cut: str) -> str:
        """Patches [1, n, side * side * 3] of pixels 0..255, as the convolution sees them -> [1, n, hidden]."""
        kernel = self.weight("v.patch_embd.weight")  # [hidden, 3, side, side]
        if self.has("v.patch_embd.weight.1"):
            kernel = kernel + self.weight("v.patch_embd.weight.1")  # two equal frames
        mean = np.array(self.number("image_mean"), np.float64)[:, None, None]
        deviation = np.array(self.number("image_std"), np.float64)[:, None, None]
        # (pixel / 255 - mean) / deviation, folded; computed in float32 whatever the type: it is 1 % of the work
        scaled = kernel / (255 * deviation)
        bias = -(kernel * (mean / deviation)).sum((1, 2, 3))
        bias += self.weight("v.patch_embd.bias") if self.has("v.patch_embd.bias") else 0
        flat = scaled.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
        return self.op("Add", self.op("MatMul", cut, self.constant(flat)), self.constant(bias))

    def square(self) -> tuple[str, int]:
        """Patches of a square picture of the tower's own size: [1, n, hidden], and patches a side."""
        side, patch = int(self.number("image_size")), int(self.number("patch_size"))
        grid = side // patch
        x = "pixels"
        if side % patch:  # not seen
            x = self.op("Slice", x, self.ints(0, 0), self.ints(grid * patch, grid * patch), self.ints(1, 2))
        x = self.op("Cast", x, to=TensorProto.FLOAT)
        x = self.op("Reshape", x, self.ints(0, grid, patch, grid, patch, 3))  # 0: as many pictures as there are
        x = self.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
        return self.patches(self.op("Reshape", x, self.ints(0, grid * grid, patch * patch * 3))), grid

    def part(self, x: str, first: int, end: int) -> str:
        """Places `first` up to `end` of axis 1."""
        return self.op("Slice", x, self.ints(first), self.ints(end), self.ints(1))

    def attended(self, x: str, block: str, *, exact: bool) -> list[str]:
        """Queries, keys and values [1, n, hidden], whether the file has them apart or in one."""
        if not self.has(f"{block}.attn_qkv.weight"):
            return [self.named(x, f"{block}.attn_{short}", exact=exact) for short in "qkv"]
        weights, biases = (np.split(self.weight(f"{block}.attn_qkv.{part}"), 3) for part in ("weight", "bias"))
        return [self.linear(x, weight, bias, exact=exact) for weight, bias in zip(weights, biases, strict=True)]

    def layers(
        self,
        x: str,
        last: str | None,
        turn: Callable[[str], str] = lambda x: x,
        each: Callable[[int, str], None] = lambda layer, x: None,
    ) -> str:
        """Pre-norm transformer layers, then the norm `last` if there is one. turn: rotates queries and keys [1, n, hidden];
        each: is told the number and the output of each layer."""
        heads, blocks = int(self.number("attention.head_count")), int(self.number("block_count"))
        for i in range(blocks):
            block = f"v.blk.{i}"
            exact = i == 0  # what goes wrong here grows through all the others
            q, k, v = self.attended(self.norm(x, f"{block}.ln1"), block, exact=exact)
            a = self.op("MultiHeadAttention", turn(q), turn(k), v, domain=CONTRIB, num_heads=heads)
            x = self.op("Add", x, self.named(a, f"{block}.attn_out", exact=exact, scale=f"{block}.ls1.weight"))
            h = self.activation(self.named(self.norm(x, f"{block}.ln2"), f"{block}.ffn_up", exact=exact))
            x = self.op("Add", x, self.named(h, f"{block}.ffn_down", exact=exact, scale=f"{block}.ls2.weight"))
            each(i, x)
        return x if last is None else self.norm(x, last)
