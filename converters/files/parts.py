"""What is converted, whatever it comes from: an LM and a vision tower, each as gguf metadata and named tensors read on demand.

From a Hugging Face checkpoint by an architecture's plan, or from a pair of float ggufs of any architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from converters import ggml
from converters.architectures import Plan, Rule
from converters.files.checkpoint import Checkpoint
from converters.ggml import Floats
from edge_vqa.errors import EdgeVqaError

FLOATS = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Part:
    """One tensor: its gguf shape (slowest first), the type it has now (f32, f16, bf16), how to read it, and what it is called
    where it comes from."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Floats]
    origin: str


@dataclass(frozen=True)
class Half:
    """An LM or a vision tower: metadata with `general.architecture`, and tensors by gguf name."""

    metadata: dict[str, Any]
    tensors: dict[str, Part]

    def value(self, key: str) -> Any:
        """A value of the metadata, or None."""
        found = self.metadata.get(key)
        return found.value if isinstance(found, Kept) else found

    def number(self, key: str, default: int | None = None) -> int:
        """A number of the LM, as in `number("block_count")`; where layers differ, the largest. Raises EdgeVqaError."""
        name = f"{self.metadata['general.architecture']}.{key}"
        found = self.value(name)
        found = default if found is None else found
        found = max(found, default=None) if isinstance(found, list) else found
        if not isinstance(found, int) or found < 1:
            raise EdgeVqaError(f"the language model's file has no usable {name}", "convert it again")
        return found


@dataclass(frozen=True)
class Kept:
    """A metadata value with the type it has in the file that it comes from."""

    value: Any
    kind: gguf.GGUFValueType
    inner: gguf.GGUFValueType | None


def from_checkpoint(checkpoint: Checkpoint, plan: Plan, lm_metadata: dict[str, Any]) -> tuple[Half, Half]:
    """LM and vision tower of a checkpoint. `lm_metadata` is added to the plan's."""
    tower = {"general.architecture": "clip", "clip.has_vision_encoder": True} | plan.vision_metadata
    return (
        Half(plan.lm_metadata | lm_metadata, _planned(checkpoint, plan.lm) | _extra(plan)),
        Half(tower, _planned(checkpoint, plan.vision)),
    )


def _planned(checkpoint: Checkpoint, rules: dict[str, Rule]) -> dict[str, Part]:
    present = set(checkpoint.names())
    # a tied output matrix is in no file: llama.cpp uses the embedding
    return {
        target: Part(rule.stored, checkpoint.dtype(rule.source).lower(), partial(_changed, checkpoint, rule), rule.source)
        for target, rule in rules.items()
        if rule.source in present
    }


def _changed(checkpoint: Checkpoint, rule: Rule) -> Floats:
    values = checkpoint.tensor(rule.source)
    return rule.change(values) if rule.change else values


def _extra(plan: Plan) -> dict[str, Part]:
    return {name: Part(values.shape, "f32", partial(np.asarray, values), name) for name, values in plan.lm_extra.items()}


def check(checkpoint: Checkpoint, plan: Plan) -> None:
    """Refuse missing, extra or misshapen tensors by name, before anything is written."""
    shapes = {rule.source: rule.shape for rule in (*plan.lm.values(), *plan.vision.values())}
    present = set(checkpoint.names())
    missing = sorted(set(shapes) - present - plan.optional)
    if missing:
        raise EdgeVqaError(f"the checkpoint lacks {_some(missing)}", "download it again, or use another checkpoint")
    unused = re.compile(rf"{plan.unused}|.*\.rotary_emb\.inv_freq")
    extra = sorted(name for name in present - set(shapes) if not unused.fullmatch(name))
    if extra:
        raise EdgeVqaError(f"the checkpoint holds unknown tensors: {_some(extra)}", "use an original checkpoint")
    for name in sorted(present & set(shapes)):
        if checkpoint.shape(name) != shapes[name]:
            raise EdgeVqaError(
                f"{name} has shape {list(checkpoint.shape(name))}, config.json asks for {list(shapes[name])}",
                "use weights and config.json of one checkpoint",
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def from_gguf(path: Path) -> Half:
    """A float gguf. Raises EdgeVqaError for one that is quantised already."""
    reader = gguf.GGUFReader(path)
    metadata: dict[str, Any] = {}
    for key, entry in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")):
            inner = entry.types[1] if len(entry.types) > 1 else None
            metadata[key] = Kept(entry.contents(), entry.types[0], inner)
    metadata["general.architecture"] = reader.fields["general.architecture"].contents()
    tensors = {}
    for tensor in reader.tensors:
        type_ = tensor.tensor_type.name.lower()
        if type_ not in FLOATS:
            raise EdgeVqaError(
                f"{path.name} is quantised already ({tensor.name} is {type_})",
                "give the f32, f16 or bf16 file, or --quant keep to use it as it is",
            )
        shape = tuple(int(n) for n in reversed(tensor.shape))
        tensors[tensor.name] = Part(shape, type_, partial(_stored, tensor, type_, shape), tensor.name)
    made = Half(metadata, tensors)
    if made.value("clip.projector_type") == "internvl":
        made.tensors.update(_class_token_last(made))
    return made


def _class_token_last(tower: Half) -> dict[str, Part]:
    """InternVL's class token and positions as our own conversion stores them. llama.cpp's keeps their batch dimension, and the
    class token's position in front, where llama.cpp's graph has the first patch."""
    positions, token = (tower.tensors.get(name) for name in ("v.position_embd.weight", "v.class_embd"))
    if positions is None or token is None or len(positions.shape) != 3:
        return {}
    read = positions.read
    return {
        "v.position_embd.weight": replace(positions, shape=positions.shape[1:], read=lambda: np.roll(read()[0], -1, 0)),
        "v.class_embd": replace(token, shape=token.shape[-1:], read=lambda: token.read().reshape(-1)),
    }


def _stored(tensor: Any, type_: str, shape: tuple[int, ...]) -> Floats:
    return ggml.dequantise(np.ascontiguousarray(tensor.data).view(np.uint8), type_).reshape(shape)
