"""One file an architecture, named after Hugging Face's `model_type`: names, shapes, metadata."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.bundle import Preprocessing
from edge_vqa.errors import EdgeVqaError

Tensor = npt.NDArray[np.float32]
KNOWN = ("idefics3", "smolvlm")


@dataclass(frozen=True)
class Rule:
    """One tensor of the checkpoint: its name in the gguf, its shape, and what to do with its values."""

    target: str
    shape: tuple[int, ...]
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """How a checkpoint becomes two ggufs. Keys of `lm` and `vision` are checkpoint names; metadata values are int, float,
    bool, str or lists of them."""

    lm: dict[str, Rule]
    vision: dict[str, Rule]
    lm_extra: dict[str, Tensor]  # tensors that no checkpoint holds, by gguf name
    optional: frozenset[str]
    lm_metadata: dict[str, Any]
    vision_metadata: dict[str, Any]
    vocabulary: int
    preprocessing: Preprocessing
    image_token: str  # what the chat template writes where the picture goes
    required_tokens: tuple[str, ...]  # what the runtime writes around the picture: each one token


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> tuple[str, Plan]:
    """The architecture's name, and its plan. Raises EdgeVqaError for an architecture that is not known."""
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise EdgeVqaError(f"model_type {kind!r} is not supported", f"use one of {', '.join(KNOWN)}")
    module = importlib.import_module(f"converters.architectures.{kind}")
    made: Plan = module.plan(config, preprocessor)
    return str(kind), made
