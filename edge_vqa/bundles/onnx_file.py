"""Checks an ONNX graph before ONNX Runtime sees it: an untrusted graph may loop for ever, fill memory, or end the process.

Admitted is what our own exporters write: a list of operators for each role, in order, no control flow, no functions, no files
outside. The format is protobuf; of it, only what is needed is read. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_vqa.errors import EdgeVqaError

# operators of `selector_onnx.export`; of `converters.vision_onnx`, and of towers with convolutions (`recipes.base`)
ESTIMATOR = frozenset("Gemm Concat Relu Sigmoid Mean DequantizeLinear Mul Sub Clip".split())
TOWER = frozenset(
    "Add Cast Concat Cos Div Expand Gelu Identity LayerNormalization MatMul Mul Range Reshape Shape Sin Slice Squeeze Transpose"
    " Unsqueeze DynamicQuantizeMatMul FastGelu MultiHeadAttention QuickGelu RotaryEmbedding"
    " AveragePool Clip Conv DequantizeLinear Erf Gather Gemm ReduceMean Softmax Sqrt Sub Tanh TopK"
    " Abs And ArgMax Equal Greater GreaterOrEqual Less Max Neg Or ReduceMax ReduceSum Round Sigmoid Where".split()
)
DOMAINS = ("", "ai.onnx", "com.microsoft")
# TensorProto.DataType -> bytes: float, uint8, int8, int32, int64, bool, float16
ITEM = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}
MOST_NODES, MOST_WIDTH = 20_000, 1 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class Graph:
    """Nodes as (operator, inputs, outputs), shapes and types (TensorProto.DataType) of the stored tensors by name, and widths
    (last dimension) of the inputs."""

    nodes: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    stored: dict[str, list[int]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)


def check(path: Path, operators: frozenset[str]) -> Graph:
    """The graph of a file, made of these operators. Raises EdgeVqaError naming what is not admitted."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _read(data, operators)
    except (ValueError, OSError) as error:
        found = str(error)
    if isinstance(found, str):
        raise EdgeVqaError(
            f"{path.name} is not an ONNX graph that can be loaded ({found})", "convert or download the bundle again"
        )
    return found


def _read(data: mmap.mmap, operators: frozenset[str]) -> Graph | str:
    """The graph, or why there is none; nothing that still looks into `data`, as an exception would."""
    try:
        return _model(memoryview(data), operators)
    except (ValueError, IndexError) as error:
        return str(error)


def check_estimator(path: Path) -> None:
    """`check` for a Selector, or familiarity; also that no tensor grows beyond what the stored weights explain. Raises
    EdgeVqaError."""
    graph = check(path, ESTIMATOR)
    widths = dict(graph.inputs)
    for kind, inputs, outputs in graph.nodes:
        if kind == "DequantizeLinear":
            graph.stored[outputs[0]] = graph.stored.get(inputs[0], [0])
            continue
        if kind == "Gemm":
            width = graph.stored.get(inputs[1], [0])[0] if len(inputs) > 1 else 0
        else:
            shapes = {name: graph.stored[name] for name in inputs if name in graph.stored}
            if any(math.prod(shape[:-1]) > 1 for shape in shapes.values()):  # which would make rows of one row
                raise EdgeVqaError(f"{path.name} is not an ONNX graph that can be loaded (a {kind} of rows)", "train it again")
            known = [widths.get(name, math.prod(shapes.get(name, [0]))) for name in inputs]
            width = sum(known) if kind == "Concat" else max(known, default=0)
        if not 1 <= width <= MOST_WIDTH:
            raise EdgeVqaError(f"{path.name} is not an ONNX graph that can be loaded (a {kind} of {width})", "train it again")
        widths[outputs[0]] = width


def _model(data: memoryview, operators: frozenset[str]) -> Graph:
    graph: Graph | None = None
    for number, value in _fields(data):
        if number == 7:
            if graph is not None:
                raise ValueError("two graphs")
            graph = _graph(_view(value), operators)
        elif number in (20, 25):
            raise ValueError("training or functions in it")
        elif number == 14:  # metadata
            for part, text in _fields(_view(value)):
                if part in (1, 2):
                    _text(text)
    if graph is None:
        raise ValueError("no graph in it")
    return graph


def _graph(data: memoryview, operators: frozenset[str]) -> Graph:
    graph, nodes = Graph(), []
    for number, value in _fields(data):
        if number == 1:
            nodes.append(_view(value))
            if len(nodes) > MOST_NODES:
                raise ValueError("too many nodes")
        elif number == 5:
            name, shape, kind_ = _tensor(_view(value))
            graph.stored[name], graph.types[name] = shape, kind_
        elif number == 11:
            name, width = _input(_view(value))
            graph.inputs[name] = width
        elif number == 15:
            raise ValueError("sparse tensors")
    known = {"", *graph.stored, *graph.inputs}
    for node in nodes:
        kind, inputs, outputs = _node(node, operators)
        if not inputs or not outputs:
            raise ValueError(f"a {kind} of nothing")
        for name in inputs:
            if name not in known:
                raise ValueError(f"{name[:40]!r} is used before it is made")
        for name in outputs:
            if name in known and name:
                raise ValueError(f"{name[:40]!r} is made twice")
        known.update(outputs)
        graph.nodes.append((kind, inputs, outputs))
    return graph


def _node(data: memoryview, operators: frozenset[str]) -> tuple[str, list[str], list[str]]:
    kind, domain, own = "", "", False
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in _fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            kind = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            own |= any(part in (5, 6, 10, 11, 15, 22, 23) for part, _ in _fields(_view(value)))  # tensors, graphs, types
    if kind not in operators or domain not in DOMAINS:
        raise ValueError(f"operator {domain[:40]}{'.' * bool(domain)}{kind[:40]} is not admitted")
    if own:
        raise ValueError(f"a {kind} with a graph or tensor of its own")
    return kind, inputs, outputs


def _tensor(data: memoryview) -> tuple[str, list[int], int]:
    """Name, shape and type of a stored tensor, whose bytes are all there."""
    name, shape, kind, size = "", [], 0, -1
    for number, value in _fields(data):
        if number == 1:
            shape += _integers(value)
        elif number == 2:
            kind = value if isinstance(value, int) else 0
        elif number == 8:
            name = _text(value)
        elif number == 9:
            size = len(_view(value))
        elif number in (3, 13) or (number == 14 and value):
            raise ValueError("a tensor that lies elsewhere")
        elif number in (4, 5, 6, 7, 10, 11):
            raise ValueError("a tensor in a form that is not admitted")
    if kind not in ITEM or any(not 0 <= side < 1 << 32 for side in shape) or math.prod(shape) * ITEM[kind] != max(size, 0):
        raise ValueError(f"tensor {name[:40]!r} of type {kind} and shape {shape[:8]} does not fit its {size} bytes")
    return name, shape, kind


def _input(data: memoryview) -> tuple[str, int]:
    """Name and width (last dimension; 0 where it is open) of an input."""
    name, width = "", 0
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for tensor in _inner(value, 1):
                for shape in _inner(tensor, 2):
                    for dimension in _inner(shape, 1):
                        width = next((v for n, v in _fields(dimension) if n == 1 and isinstance(v, int)), 0)
    return name, width


def _inner(value: int | memoryview, wanted: int) -> Iterator[memoryview]:
    return (_view(inner) for number, inner in _fields(_view(value)) if number == wanted)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a protobuf message's fields: an integer, or bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("it is damaged")
        if size > end - at:
            raise ValueError("it ends early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is damaged")


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is damaged")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_view(value)).decode()  # UnicodeDecodeError is a ValueError


def _integers(value: int | memoryview) -> list[int]:
    """A repeated integer, packed or one by one."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found
