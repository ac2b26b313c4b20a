"""What is inside a checkpoint, a gguf or a bundle: architecture, weights and bits by group of tensors, tower, chat template."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import architectures
from converters.files import parts, tokenizer
from converters.files.checkpoint import Checkpoint
from edge_vqa.bundles import gguf_file, onnx_file, ready, store
from edge_vqa.bundles import manifest as manifests
from edge_vqa.errors import EdgeVqaError

# The first pattern that a gguf name matches names its group.
GROUPS = (
    ("norms and biases", r"norm|\.ln|_ln|\.bias$|rope_freqs|class_embd|\.ls\d"),
    ("embedding", r"^token_embd"),
    ("output", r"^output\.weight"),
    ("projector", r"^mm\."),
    ("patches and positions", r"^v\.(patch|position)_embd"),
    ("attention", r"attn"),
    ("feed-forward", r"ffn"),
)
# word -> key under the architecture's name
KEYS = {
    "width": "embedding_length",
    "layers": "block_count",
    "heads": "attention.head_count",
    "key heads": "attention.head_count_kv",
    "context": "context_length",
}
ONNX_TYPES = {1: "f32", 2: "u8", 3: "i8", 6: "i32", 7: "i64", 9: "bool", 10: "f16"}  # TensorProto.DataType
TOWER_KEYS = {"image": "image_size", "patch": "patch_size", "width": "embedding_length", "layers": "block_count"}


@dataclass(frozen=True)
class Stored:
    """One tensor as it is stored."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """Tensors with one job: how many, their weights, bytes and types (type -> tensors)."""

    name: str
    tensors: int
    weights: int
    bytes: int
    types: dict[str, int]

    @property
    def bits(self) -> float:
        return 8 * self.bytes / self.weights


@dataclass(frozen=True)
class Section:
    """One model: an LM or a vision tower."""

    title: str
    facts: dict[str, str]
    tensors: tuple[Stored, ...]

    @property
    def groups(self) -> list[Group]:
        made = []
        named = [(group_of(t.name), t) for t in self.tensors]
        for name in (*(g for g, _ in GROUPS), "other"):
            found = [t for group, t in named if group == name]
            if found:
                types = Counter(t.type for t in found)
                weights, size = sum(t.weights for t in found), sum(t.bytes for t in found)
                made.append(Group(name, len(found), weights, size, dict(types.most_common())))
        return sorted(made, key=lambda group: -group.bytes)


def group_of(name: str) -> str:
    return next((group for group, pattern in GROUPS if re.search(pattern, name)), "other")


def inspect(path: Path) -> list[Section]:
    """Sections of a bundle (folder or known name), a gguf, or a checkpoint folder. Raises EdgeVqaError."""
    if path.suffix == ".gguf":
        return [_gguf(path)]
    if (path / "config.json").is_file():
        return _checkpoint(path)
    if path.is_dir() and not (path / manifests.MANIFEST).is_file() and any(path.glob("*.gguf")):
        return [_gguf(file) for file in sorted(path.glob("*.gguf"))]
    bundle = store.read(path)
    sections = [_gguf(bundle.files[role]) for role in ("lm", "vision") if role in bundle.files]
    if "vision_onnx" in bundle.files:
        sections.append(_onnx(bundle.files["vision_onnx"]))
    return sections


def _onnx(path: Path) -> Section:
    graph = onnx_file.check(path, onnx_file.TOWER)
    facts = {"file": f"{path.name}, {path.stat().st_size / 1e6:.2f} MB", "inputs": ", ".join(graph.inputs)}
    facts["operators"] = ", ".join(f"{kind} {n}" for kind, n in Counter(kind for kind, _, _ in graph.nodes).most_common(5))
    stored = [
        Stored(name, tuple(shape), ONNX_TYPES[graph.types[name]], math.prod(shape) * onnx_file.ITEM[graph.types[name]])
        for name, shape in graph.stored.items()
    ]
    return Section("vision tower, onnx", facts, tuple(stored))


def _gguf(path: Path) -> Section:
    header = gguf_file.read(path)
    data, tower = header.metadata, ready.is_vision(header)
    prefix = "clip.vision" if tower else str(data.get("general.architecture"))
    facts = {"file": f"{path.name}, {path.stat().st_size / 1e6:.2f} MB", "name": str(data.get("general.name", "?"))}
    if tower:
        facts["projector"] = ready.projector_of(header)
        facts["tower"] = _listed(data, prefix, TOWER_KEYS)
    else:
        facts["architecture"] = str(data.get("general.architecture", "?"))
        facts["shape"] = _listed(data, prefix, KEYS)
        facts["tokenizer"] = f"{data.get('tokenizer.ggml.model', 'none')} {data.get('tokenizer.ggml.pre', '')}".strip()
        facts["tokens"] = f"{len(data.get('tokenizer.ggml.tokens') or []):,}"
        facts["chat template"] = _shortened(str(data.get("tokenizer.chat_template", "none")))
    stored = [
        Stored(name, shape, ready.TYPES.get(kind, f"type {kind}"), size) for name, (shape, kind, size) in header.tensors.items()
    ]
    return Section("vision tower" if tower else "language model", facts, tuple(stored))


def _listed(data: dict[str, Any], prefix: str, keys: dict[str, str]) -> str:
    found = {word: data.get(f"{prefix}.{key}") for word, key in keys.items()}
    return ", ".join(f"{word} {value:,}" for word, value in found.items() if isinstance(value, int))


def _shortened(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= 100 else f"{folded[:97]}..."


def _checkpoint(path: Path) -> list[Section]:
    with Checkpoint(path) as checkpoint:
        architecture, plan = architectures.plan(checkpoint.config, checkpoint.json("preprocessor_config.json", required=False))
        checkpoint.rename(plan.renamed)
        parts.check(checkpoint, plan)
        lm, vision = parts.from_checkpoint(checkpoint, plan, {})
        facts = {"architecture": architecture, "language model": str(plan.lm_metadata["general.architecture"])}
        facts["shape"] = _listed(plan.lm_metadata, facts["language model"], KEYS)
        try:
            words = tokenizer.read(checkpoint, plan.vocabulary)
            facts["tokenizer"] = f"{words.model} {words.pre}"
            facts["chat template"] = _shortened(words.chat_template)
        except EdgeVqaError as error:
            facts["tokenizer"] = f"not usable: {error.what}"
        odd = sorted({part.shape[-1] for part in lm.tensors.values() if len(part.shape) == 2 and part.shape[-1] % 256})
        if odd:
            facts["K-types"] = f"rows of {', '.join(map(str, odd))} go into blocks of 32 instead"
        tower = {"projector": str(plan.vision_metadata["clip.projector_type"])}
        tower["tower"] = _listed(plan.vision_metadata, "clip.vision", TOWER_KEYS)
        return [
            Section("language model", facts, _stored(lm)),
            Section("vision tower", tower, _stored(vision)),
        ]


def _stored(half: parts.Half) -> tuple[Stored, ...]:
    width = {"f32": 4, "f16": 2, "bf16": 2}
    return tuple(
        Stored(name, part.shape, part.dtype, math.prod(part.shape) * width[part.dtype]) for name, part in half.tensors.items()
    )
