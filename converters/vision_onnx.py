"""Vision tower and projector -> one ONNX graph: pixels uint8 [1, h, w, 3] in, image embeddings [tokens, n_embd] out.

The graph is built node by node from gguf-named weights, without torch. Normalisation of the pixels is folded into the patch
weights; attention, GELU, layer norms with their residuals and 8-bit products are the fused operators of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converters.files.parts import Half
from converters.ggml import Floats
from edge_vqa.border.whole import write_whole
from edge_vqa.errors import EdgeVqaError

TYPES = ("f32", "f16", "int8")
MOST_BYTES = 2**31 - 1  # of a protobuf message
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

    def named(self, x: str, name: str, *, exact: bool = False) -> str:
        """The linear layer of that name."""
        bias = self.weight(f"{name}.bias") if self.has(f"{name}.bias") else None
        return self.linear(x, self.weight(f"{name}.weight"), bias, exact=exact)

    def norm(self, x: str, name: str) -> str:
        epsilon = float(self.number("attention.layer_norm_epsilon"))
        weights = self.constant(self.weight(f"{name}.weight")), self.constant(self.weight(f"{name}.bias"))
        return self.op("LayerNormalization", x, *weights, epsilon=epsilon)

    def activation(self, x: str) -> str:
        """What the metadata says: GELU, in CLIP exact and in SigLIP by tanh; else x * sigmoid(1.702 x)."""
        if not self.setting("clip.use_gelu"):
            return self.op("QuickGelu", x, domain=CONTRIB, alpha=1.702)
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
        x = self.op("Cast", "pixels", to=TensorProto.FLOAT)
        x = self.op("Reshape", x, self.ints(grid, patch, grid, patch, 3))
        x = self.op("Transpose", x, perm=[0, 2, 1, 3, 4])
        return self.patches(self.op("Reshape", x, self.ints(1, grid * grid, patch * patch * 3))), grid

    def layers(self, x: str, last: str | None, turn: Callable[[str], str] = lambda x: x) -> str:
        """Pre-norm transformer layers, then the norm `last` if there is one. turn: rotates queries and keys [1, n, hidden]."""
        heads, blocks = int(self.number("attention.head_count")), int(self.number("block_count"))
        for i in range(blocks):
            block = f"v.blk.{i}"
            h = self.norm(x, f"{block}.ln1")
            exact = i == 0  # what goes wrong here grows through all the others
            q, k, v = (self.named(h, f"{block}.attn_{short}", exact=exact) for short in "qkv")
            a = self.op("MultiHeadAttention", turn(q), turn(k), v, domain=CONTRIB, num_heads=heads)
            x = self.op("Add", x, self.named(a, f"{block}.attn_out", exact=exact))
            h = self.activation(self.named(self.norm(x, f"{block}.ln2"), f"{block}.ffn_up", exact=exact))
            x = self.op("Add", x, self.named(h, f"{block}.ffn_down", exact=exact))
        return x if last is None else self.norm(x, last)


def _idefics3(g: Graph) -> str:
    """SigLIP, pixel shuffle (`factor` x `factor` patches side by side), one linear layer."""
    x, side = g.square()
    x = g.op("Add", x, g.constant(g.weight("v.position_embd.weight")))
    x = g.layers(x, "v.post_ln")  # [1, side * side, hidden]
    hidden, factor = int(g.number("embedding_length")), int(g.number("projector.scale_factor"))
    small = side // factor
    x = g.op("Reshape", x, g.ints(small, factor, small, factor * hidden))
    x = g.op("Transpose", x, perm=[0, 2, 1, 3])
    x = g.op("Reshape", x, g.ints(small * small, factor * factor * hidden))
    return g.named(x, "mm.model.fc", exact=True)


def _llava(g: Graph) -> str:
    """CLIP with its class token in front, which goes before the projector of two layers."""
    x, _ = g.square()
    first = g.constant(g.weight("v.class_embd").reshape(1, 1, -1))
    x = g.op("Concat", first, x, axis=1)
    x = g.op("Add", x, g.constant(g.weight("v.position_embd.weight")))
    x = g.layers(g.norm(x, "v.pre_ln"), None)
    hidden = int(g.number("embedding_length"))
    x = g.op("Slice", x, g.ints(1), g.ints(2**31 - 1), g.ints(1))
    x = g.op("Reshape", x, g.ints(-1, hidden))
    return g.named(g.op("Gelu", g.named(x, "mm.0", exact=True)), "mm.2", exact=True)


def _qwen2_vl(g: Graph) -> str:
    """Pictures of any shape: patches in the order of the 2 x 2 squares that are merged, turned by row and column (2-D rope)."""
    patch, hidden = int(g.number("patch_size")), int(g.number("embedding_length"))
    width = hidden // int(g.number("attention.head_count"))
    size = g.op("Shape", "pixels")
    rows, columns = (
        g.op("Div", g.op("Slice", size, g.ints(axis), g.ints(axis + 1)), g.ints(2 * patch)) for axis in (1, 2)
    )  # [1] each, of squares

    def shape(*parts: str) -> str:
        return g.op("Concat", *parts, axis=0)

    x = g.op("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.op("Reshape", x, shape(rows, g.ints(2, patch), columns, g.ints(2, patch, 3)))
    x = g.op("Transpose", x, perm=[0, 3, 1, 4, 2, 5, 6])  # [rows, columns, 2, 2, y, x, 3]
    x = g.patches(g.op("Reshape", x, g.ints(1, -1, patch * patch * 3)))
    # angles [n, width / 2]: of the row, then of the column
    frequencies = 10000.0 ** -(np.arange(0, width // 2, 2) / (width // 2))
    squares = shape(rows, columns, g.ints(2, 2))
    angles = []
    for axis, count in enumerate((rows, columns)):
        places = g.op("Range", g.constant(0, np.int64), g.op("Squeeze", g.op("Mul", count, g.ints(2))), g.constant(1, np.int64))
        parts = [g.ints(1)] * 4
        parts[axis], parts[axis + 2] = count, g.ints(2)
        places = g.op("Expand", g.op("Reshape", places, shape(*parts)), squares)
        places = g.op("Cast", g.op("Reshape", places, g.ints(-1, 1)), to=TensorProto.FLOAT)
        angles.append(g.op("Mul", places, g.constant(frequencies[None])))
    angle = g.op("Concat", *angles, axis=1)
    cosine, sine = g.op("Cos", angle), g.op("Sin", angle)
    n = g.op("Slice", g.op("Shape", angle), g.ints(0), g.ints(1))
    numbers = g.op("Range", g.constant(0, np.int64), g.op("Squeeze", n), g.constant(1, np.int64))
    numbers = g.op("Unsqueeze", numbers, g.ints(0))

    def turn(value: str) -> str:
        heads = int(g.number("attention.head_count"))
        return g.op("RotaryEmbedding", value, numbers, cosine, sine, domain=CONTRIB, num_heads=heads)

    x = g.layers(x, "v.post_ln", turn)
    x = g.op("Reshape", x, g.ints(-1, 4 * hidden))
    return g.named(g.op("Gelu", g.named(x, "mm.0", exact=True)), "mm.2", exact=True)


# clip.projector_type -> what builds its graph, and whether pictures come in any shape
PROJECTORS: dict[str, tuple[Callable[[Graph], str], bool]] = {
    "idefics3": (_idefics3, False),
    "mlp": (_llava, False),
    "qwen2vl_merger": (_qwen2_vl, True),
}


def weights(tower: Half) -> int:
    """How many weights `write` will count."""
    return sum(int(np.prod(part.shape)) for part in tower.tensors.values())


def write(path: Path, tower: Half, type_: str, count: Callable[[int], None] = lambda weights: None) -> None:
    """Write the graph of a tower, whole or not at all. Raises EdgeVqaError for a tower that has none.

    type_: `f32`; `f16` stores matrices in half precision and computes in single; `int8` multiplies in 8 bits, with a scale for
    each output channel's weights and, found while it runs, one for each layer's inputs; the first layer and the projector
    stay as in `f16`.
    """
    if type_ not in TYPES:
        raise EdgeVqaError(f"an ONNX vision tower of type {type_!r} is unknown", f"use one of {', '.join(TYPES)}")
    g = Graph(tower, type_, count)
    kind = str(g.setting("clip.projector_type"))
    if kind not in PROJECTORS:
        raise EdgeVqaError(
            f"no ONNX graph is known for a vision tower with projector {kind!r}",
            f"leave --vision-backend at mtmd; ONNX knows {', '.join(PROJECTORS)}",
        )
    if weights(tower) * {"f32": 4, "f16": 2, "int8": 1.2}[type_] > MOST_BYTES:
        raise EdgeVqaError(f"in {type_} this tower is larger than an ONNX file may be", "use --onnx-type int8")
    build, free = PROJECTORS[kind]
    out = build(g)
    g.nodes.append(helper.make_node("Identity", [out], ["embeddings"]))
    sides: list[int | str] = ["height", "width"] if free else [int(g.number("image_size"))] * 2
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, *sides, 3])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["tokens", int(g.number("projection_dim"))])
    model = helper.make_model(
        helper.make_graph(g.nodes, "vision", [pixels], [embeddings], g.constants),
        producer_name="edge-vqa",
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)],
        ir_version=10,
    )
    write_whole(path, lambda stream: stream.write(model.SerializeToString()))
