"""One file an architecture, named after Hugging Face's `model_type`: names, shapes, metadata."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError

Tensor = npt.NDArray[np.float32]
# model_type, with - as _ -> one file each
KNOWN = (
    *("blip_2", "gemma3", "idefics3", "instructblip", "internvl", "lfm2_vl", "llava"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"),
)


@dataclass(frozen=True)
class Rule:
    """Where a gguf tensor comes from: the checkpoint's tensor, its shape there, what to do with its values, and the shape
    that comes of it (the same, unless given)."""

    source: str
    shape: tuple[int, ...]
    change: Callable[[Tensor], Tensor] | None = None
    changed: tuple[int, ...] | None = None

    @property
    def stored(self) -> tuple[int, ...]:
        return self.changed or self.shape


@dataclass(frozen=True)
class Plan:
    """How a checkpoint becomes two ggufs. Keys of `lm` and `vision` are gguf names; metadata values are int, float, bool,
    str or lists of them."""

    lm: dict[str, Rule]
    vision: dict[str, Rule]
    lm_metadata: dict[str, Any]
    vision_metadata: dict[str, Any]
    vocabulary: int
    preprocessing: Preprocessing
    required_tokens: tuple[str, ...] = ()  # what the runtime writes around the picture: each one token
    lm_extra: dict[str, Tensor] = field(default_factory=dict)  # tensors that no checkpoint holds, by gguf name
    optional: frozenset[str] = frozenset()  # tensors of the checkpoint that may be missing
    unused: str = r"(?!)"  # regular expression of tensors that a checkpoint may hold and nothing needs
    renamed: tuple[tuple[str, str], ...] = ()  # prefix in some checkpoints -> the one that the rules use
    chat_template: str = ""  # of an architecture whose checkpoints have none
    reads_question: bool = False  # the projector does, by a vocabulary of its own


def biased(target: str, source: str, *shape: int) -> dict[str, Rule]:
    """A linear, a convolution or a norm, and its bias."""
    return {f"{target}.weight": Rule(f"{source}.weight", shape), f"{target}.bias": Rule(f"{source}.bias", shape[:1])}


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> tuple[str, Plan]:
    """The architecture's name, and its plan. Raises EdgeVqaError for an architecture that is not known."""
    kind = str(config.get("model_type")).replace("-", "_")
    if kind not in KNOWN:
        raise EdgeVqaError(f"model_type {config.get('model_type')!r} is not supported", f"use one of {', '.join(KNOWN)}")
    module = importlib.import_module(f"converters.architectures.{kind}")
    made: Plan = module.plan(config, preprocessor)
    return kind, made
