"""Vision tower and projector -> one ONNX graph: pixels uint8 [1, h, w, 3] in, image embeddings [tokens, n_embd] out.

A projector that reads the question (InstructBLIP's) makes it a graph of two more inputs: `question`, int64 [1, words], and
`seen`, float [pictures, patches, width], what the tower makes of a picture, which is an output too, `features`. With no pixels
[0, h, w, 3] the tower does not run, and a second question on a picture costs the projector only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from converters import qformer_onnx
from converters.files.parts import Half
from converters.onnx_graph import CONTRIB, Graph
from edge_vqa.border.whole import write_whole
from edge_vqa.errors import EdgeVqaError

TYPES = ("f32", "f16", "int8")
MOST_BYTES = 2**31 - 1  # of a protobuf message


def _side_by_side(g: Graph, x: str, side: int) -> str:
    """Pixel shuffle: `factor` x `factor` neighbours of the patches [1, side * side, hidden] -> one row each."""
    hidden, factor = int(g.number("embedding_length")), int(g.number("projector.scale_factor"))
    small = side // factor
    x = g.op("Reshape", x, g.ints(small, factor, small, factor * hidden))
    return g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 1, 3]), g.ints(small * small, factor * factor * hidden))


def _siglip(g: Graph) -> tuple[str, int]:
    """[1, side * side, hidden] of a square picture, and the side."""
    x, side = g.square()
    x = g.op("Add", x, g.constant(g.weight("v.position_embd.weight")))
    return g.layers(x, "v.post_ln"), side


def _idefics3(g: Graph) -> str:
    """SigLIP, pixel shuffle, one linear layer."""
    return g.named(_side_by_side(g, *_siglip(g)), "mm.model.fc", exact=True)


def _gemma3(g: Graph) -> str:
    """SigLIP, the mean of `factor` x `factor` neighbours, an RMS norm, one matrix."""
    x, side = _siglip(g)
    hidden, factor = int(g.number("embedding_length")), int(g.number("projector.scale_factor"))
    x = g.op("Reshape", x, g.ints(side // factor, factor, side // factor, factor, hidden))
    x = g.op("Reshape", g.op("ReduceMean", x, g.ints(1, 3), keepdims=0), g.ints(-1, hidden))
    square = g.op("ReduceMean", g.op("Mul", x, x), g.ints(1), keepdims=1)
    epsilon = g.constant([float(g.number("attention.layer_norm_epsilon"))])
    x = g.op("Div", x, g.op("Sqrt", g.op("Add", square, epsilon)))
    x = g.op("Mul", x, g.constant(g.weight("mm.soft_emb_norm.weight")))
    return g.linear(x, g.weight("mm.input_projection.weight").T, None, exact=True)


def _internvl(g: Graph) -> str:
    """InternViT with its class token behind the patches, which goes; pixel shuffle, a norm, two layers."""
    x, side = g.square()
    x = g.op("Concat", x, g.constant(g.weight("v.class_embd").reshape(1, 1, -1)), axis=1)
    x = g.layers(g.op("Add", x, g.constant(g.weight("v.position_embd.weight"))), None)
    x = g.norm(_side_by_side(g, g.part(x, 0, side * side), side), "mm.model.mlp.0", 1e-5)
    return g.named(g.op("Gelu", g.named(x, "mm.model.mlp.1", exact=True)), "mm.model.mlp.3", exact=True)


def _llava(g: Graph) -> str:
    """CLIP with its class token in front, which goes before the projector of two layers."""
    x, _ = g.square()
    first = g.constant(g.weight("v.class_embd").reshape(1, 1, -1))
    x = g.op("Concat", first, x, axis=1)
    x = g.op("Add", x, g.constant(g.weight("v.position_embd.weight")))
    x = g.layers(g.norm(x, "v.pre_ln"), None)
    hidden = int(g.number("embedding_length"))
    x = g.part(x, 1, 2**31 - 1)
    x = g.op("Reshape", x, g.ints(-1, hidden))
    return g.named(g.op("Gelu", g.named(x, "mm.0", exact=True)), "mm.2", exact=True)


def _shape(g: Graph, *parts: str) -> str:
    return g.op("Concat", *parts, axis=0)


def _places(g: Graph, count: str) -> str:
    """0 to 2 * count, int64; count: of squares, [1]."""
    return g.op("Range", g.constant(0, np.int64), g.op("Squeeze", g.op("Mul", count, g.ints(2))), g.constant(1, np.int64))


def _squares(g: Graph) -> tuple[str, list[str], Callable[[str], str]]:
    """A picture of any shape: patches [1, n, hidden] in the order of the 2 x 2 squares that are merged, rows and columns of
    squares, and what turns queries and keys by their row and column (2-D rope)."""
    patch, heads = int(g.number("patch_size")), int(g.number("attention.head_count"))
    width = int(g.number("embedding_length")) // heads
    size = g.op("Shape", "pixels")
    counts = [g.op("Div", g.op("Slice", size, g.ints(axis), g.ints(axis + 1)), g.ints(2 * patch)) for axis in (1, 2)]
    rows, columns = counts  # [1] each, of squares
    x = g.op("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.op("Reshape", x, _shape(g, rows, g.ints(2, patch), columns, g.ints(2, patch, 3)))
    x = g.op("Transpose", x, perm=[0, 3, 1, 4, 2, 5, 6])  # [rows, columns, 2, 2, y, x, 3]
    x = g.patches(g.op("Reshape", x, g.ints(1, -1, patch * patch * 3)))
    # angles [n, width / 2]: of the row, then of the column
    frequencies = 10000.0 ** -(np.arange(0, width // 2, 2) / (width // 2))
    squares = _shape(g, rows, columns, g.ints(2, 2))
    angles = []
    for axis, count in enumerate(counts):
        parts = [g.ints(1)] * 4
        parts[axis], parts[axis + 2] = count, g.ints(2)
        places = g.op("Expand", g.op("Reshape", _places(g, count), _shape(g, *parts)), squares)
        places = g.op("Cast", g.op("Reshape", places, g.ints(-1, 1)), to=TensorProto.FLOAT)
        angles.append(g.op("Mul", places, g.constant(frequencies[None])))
    angle = g.op("Concat", *angles, axis=1)
    cosine, sine = g.op("Cos", angle), g.op("Sin", angle)
    n = g.op("Slice", g.op("Shape", angle), g.ints(0), g.ints(1))
    numbers = g.op("Range", g.constant(0, np.int64), g.op("Squeeze", n), g.constant(1, np.int64))
    numbers = g.op("Unsqueeze", numbers, g.ints(0))

    def turn(value: str) -> str:
        return g.op("RotaryEmbedding", value, numbers, cosine, sine, domain=CONTRIB, num_heads=heads)

    return x, counts, turn


def _merge(g: Graph, x: str, first: str, second: str, norm: str | None = None) -> str:
    """Four patches of a square [1, n, hidden] -> one embedding each [n / 4, out]."""
    x = g.op("Reshape", x, g.ints(-1, 4 * int(g.number("embedding_length"))))
    x = x if norm is None else g.norm(x, norm)
    return g.named(g.op("Gelu", g.named(x, first, exact=True)), second, exact=True)


def _qwen2_vl(g: Graph) -> str:
    """Pictures of any shape, 2-D rope, squares of 2 x 2 patches merged."""
    x, _, turn = _squares(g)
    return _merge(g, g.layers(x, "v.post_ln", turn), "mm.0", "mm.2")


def _qwen3_vl(g: Graph) -> str:
    """Qwen2-VL's, with a learned grid of positions stretched over the picture (bilinear, corner to corner), and features of
    several layers behind the embeddings (DeepStack): [n / 4, out * (1 + layers)]."""
    x, counts, turn = _squares(g)
    hidden = int(g.number("embedding_length"))
    learned = g.weight("v.position_embd.weight")
    side = math.isqrt(len(learned))
    shares = []  # [2 * count, side]: of each learned row (column) in each row (column) of patches
    for count in counts:
        places = g.op("Cast", _places(g, count), to=TensorProto.FLOAT)
        last = g.op("Cast", g.op("Sub", g.op("Mul", count, g.ints(2)), g.ints(1)), to=TensorProto.FLOAT)
        places = g.op("Unsqueeze", g.op("Div", g.op("Mul", places, g.constant([side - 1])), last), g.ints(1))
        apart = g.op("Abs", g.op("Sub", places, g.constant(np.arange(side)[None])))
        shares.append(g.op("Max", g.op("Sub", g.constant([1]), apart), g.constant([0])))
    grid = g.op("MatMul", shares[0], g.constant(learned.reshape(side, side * hidden)))
    grid = g.op("MatMul", shares[1], g.op("Reshape", grid, g.ints(-1, side, hidden)))  # [rows, columns, hidden]
    grid = g.op("Reshape", grid, _shape(g, counts[0], g.ints(2), counts[1], g.ints(2, hidden)))
    grid = g.op("Reshape", g.op("Transpose", grid, perm=[0, 2, 1, 3, 4]), g.ints(1, -1, hidden))
    deep: list[str] = []

    def features(layer: int, x: str) -> None:
        name = f"v.deepstack.{layer}"
        if g.has(f"{name}.norm.weight"):
            deep.append(_merge(g, x, f"{name}.fc1", f"{name}.fc2", f"{name}.norm"))

    x = g.layers(g.op("Add", x, grid), "v.post_ln", turn, features)
    return g.op("Concat", _merge(g, x, "mm.0", "mm.2"), *deep, axis=1)


def _width(g: Graph) -> int:
    """Of the embeddings."""
    deep: list[bool] = g.setting("clip.vision.is_deepstack_layers") or []
    return int(g.number("projection_dim")) * (1 + sum(deep))


# clip.projector_type -> what builds its graph, and whether pictures come in any shape
PROJECTORS: dict[str, tuple[Callable[[Graph], str], bool]] = {
    "idefics3": (_idefics3, False),
    "gemma3": (_gemma3, False),
    "internvl": (_internvl, False),
    "mlp": (_llava, False),
    "qwen2vl_merger": (_qwen2_vl, True),
    "qwen3vl_merger": (_qwen3_vl, True),
    "qformer": (qformer_onnx.build, False),
}
ONLY = ("qformer",)  # those that llama.cpp has no graph for
BIDIRECTIONAL = ("gemma3",)  # those whose LM lets the tokens of a picture see each other


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
    g.output(out, "embeddings")
    sides: list[int | str] = ["height", "width"] if free else [int(g.number("image_size"))] * 2
    reads = qformer_onnx.reads(g)
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["pictures" if reads else 1, *sides, 3])]
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["tokens", _width(g)])]
    if reads:
        patches = (int(g.number("image_size")) // int(g.number("patch_size"))) ** 2
        features = [TensorProto.FLOAT, ["pictures", patches + 1, int(g.number("embedding_length"))]]
        inputs.append(helper.make_tensor_value_info("seen", *features))
        inputs.append(helper.make_tensor_value_info("question", TensorProto.INT64, [1, "words"]))
        outputs.append(helper.make_tensor_value_info("features", *features))
    model = helper.make_model(
        helper.make_graph(g.nodes, "vision", inputs, outputs, g.constants),
        producer_name="edge-vqa",
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)],
        ir_version=10,
    )
    told = {"attention": "bidirectional"} if kind in BIDIRECTIONAL else {}
    if reads:
        told["vocabulary"] = "\n".join(g.setting("clip.qformer.vocabulary"))
        told["most_words"] = str(g.setting("clip.qformer.context_length"))
    helper.set_model_props(model, told)
    write_whole(path, lambda stream: stream.write(model.SerializeToString()))
