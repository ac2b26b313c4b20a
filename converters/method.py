"""How each tensor is stored: a method by its name (`rtn:q4_k_m`), the type of each tensor, and what makes its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from converters import ggml
from converters.files import writer
from converters.files.parts import FLOATS, Half
from converters.files.writer import Entry
from converters.ggml import Floats
from converters.quantisers import eight_levels, hqq, iq4_nl, rtn
from edge_vqa.bundles.claims import TRANSPOSED
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class Method:
    """A parsed --quant: `equalise` (MBQ) first, then rounding by `rtn`, `rtn3` (to eight levels) or `hqq` into `type`;
    `importance` weighs channels."""

    name: str
    rounding: str
    type: str
    equalise: bool = False
    importance: bool = False

    @property
    def calibrated(self) -> bool:
        return self.equalise or self.importance


METHODS = {
    "rtn": ("rtn", False, False),
    "hqq": ("hqq", False, False),
    "rtn3": ("rtn3", False, False),
    "mbq+rtn": ("rtn", True, False),
    "mbq+hqq": ("hqq", True, False),
    "mbq-imatrix": ("rtn", False, True),
}


def parse_quant(quant: str) -> Method:
    """`rtn:q4_k_m` -> Method; a type alone means rtn. Raises EdgeVqaError."""
    name, _, type_ = quant.lower().rpartition(":")
    name = name or "rtn"
    if name not in METHODS:
        raise EdgeVqaError(f"quantisation method {name!r} is unknown", f"use one of {', '.join(METHODS)}, as in rtn:q4_k_m")
    rounding, equalise, importance = METHODS[name]
    types = {"hqq": (hqq.TYPE,), "rtn3": (eight_levels.TYPE,)}.get(rounding, (*FLOATS, *rtn.TYPES))
    if type_ not in types:
        raise EdgeVqaError(f"{name} knows no quantisation type {type_!r}", f"use one of {', '.join(types)}")
    return Method(name, rounding, type_, equalise, importance)


def lm_types(lm: Half, type_: str) -> dict[str, str]:
    """gguf name -> stored type, in the order of the file: what has no layer first, then layer by layer, as llama.cpp sorts."""

    def place(name: str) -> tuple[str, int, str]:
        half, found, rest = name.rpartition("blk.")  # of an encoder and a decoder, the decoder
        return (half, int(rest.split(".")[0]), name) if found else ("", -1, name)

    shapes = [(name, lm.tensors[name].shape) for name in sorted(lm.tensors, key=place)]
    heads = lm.number("attention.head_count", 1)
    keys = lm.number("attention.head_count_kv", heads)
    return rtn.tensor_types(
        shapes, type_, rtn.Shape(sum(name.endswith("ffn_down.weight") for name in lm.tensors), heads // keys)
    )


def lm_entries(lm: Half, method: Method, threads: int, importance: dict[str, Floats]) -> list[Entry]:
    """The LM's tensors as they are to be written. importance: by gguf name, one number an input channel."""

    return [
        Entry(
            name,
            lm.tensors[name].shape,
            type_,
            lm.tensors[name].read,
            lm.tensors[name].origin,
            coder_of(method, type_, threads, importance.get(name)),
        )
        for name, type_ in lm_types(lm, method.type).items()
    ]


def coder_of(method: Method, type_: str, threads: int, importance: Floats | None = None) -> writer.Coder:
    """What makes blocks of `type_` under a method."""
    if method.rounding == "hqq" and type_ == hqq.TYPE:
        return lambda values: hqq.quantise(values, threads=threads)
    if method.rounding == "rtn3" and type_ == eight_levels.TYPE:
        return lambda values: eight_levels.quantise(values, threads=threads)
    if type_ == "iq4_nl" and method.type != "iq4_nl":  # in place of a K-type
        return lambda values: iq4_nl.quantise(values, importance=importance, threads=threads)
    return writer.rounding(type_, threads, importance)


def vision_entries(vision: Half, type_: str, threads: int) -> list[Entry]:
    """The tower's tensors: matrices as `type_` where rows fit; the patch convolution, and what llama.cpp transposes, f16 unless
    all is f32; the rest f32."""
    entries = []
    for name, part in vision.tensors.items():
        if name.startswith("v.patch_embd.weight") or name == TRANSPOSED:
            stored = "f32" if type_ == "f32" else "f16"
        elif len(part.shape) == 1 or "position_embd" in name:
            stored = "f32"
        elif len(part.shape) > 2 or not name.endswith(".weight") or re.search(rtn.FLOAT_ONLY, name):  # other architectures'
            stored = part.dtype if part.dtype != "bf16" else "f16"
        else:
            stored = type_ if ggml.fits(type_, part.shape) else "f16"
        entries.append(Entry(name, part.shape, stored, part.read, part.origin, writer.rounding(stored, threads)))
    return entries
