"""Vision tower and projector -> one ONNX graph: pixels uint8 [1, h, w, 3] in, image embeddings [tokens, n_embd] out.

A projector that reads the question (InstructBLIP's) makes it a graph of two more inputs: `question`, int64 [1, words], and
`seen`, float [pictures, patches, width], what the tower makes of a picture, which is an output too, `features`. With no pixels
[0, h, w, 3] the tower does not run, and a second question on a picture costs the projector only.
"""

from __future__ import annotations

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
    x = g.part(x, 1, 2**31 - 1)
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
    "qformer": (qformer_onnx.build, False),
}
ONLY = ("qformer",)  # those that llama.cpp has no graph for


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
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["tokens", int(g.number("projection_dim"))])]
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
    if reads:
        words = g.setting("clip.qformer.vocabulary")
        helper.set_model_props(
            model, {"vocabulary": "\n".join(words), "most_words": str(g.setting("clip.qformer.context_length"))}
        )
    write_whole(path, lambda stream: stream.write(model.SerializeToString()))
