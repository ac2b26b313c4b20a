"""edge-vqa: visual question answering on small devices, with an answer to rely on or an honest abstention.

    import edge_vqa
    with edge_vqa.load() as model:
        answer = model.ask("photo.jpg", "what is this?")
        print(answer.text or "not sure enough to answer")

Names are loaded on first use, so that `import edge_vqa` is cheap and touches nothing native.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_vqa import metrics
    from edge_vqa.answer import Answer, Token, Verdict
    from edge_vqa.bundles.store import Bundle
    from edge_vqa.errors import EdgeVqaError
    from edge_vqa.model import Model, OpenPicture, load
    from edge_vqa.pictures.open import Picture

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Bundle",
    "EdgeVqaError",
    "Model",
    "OpenPicture",
    "Picture",
    "Token",
    "Verdict",
    "load",
    "metrics",
]

_HOMES = {
    "Bundle": "edge_vqa.bundles.store",
    "EdgeVqaError": "edge_vqa.errors",
    "Picture": "edge_vqa.pictures.open",
    **dict.fromkeys(("Answer", "Token", "Verdict"), "edge_vqa.answer"),
    **dict.fromkeys(("Model", "OpenPicture", "load"), "edge_vqa.model"),
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("edge_vqa.metrics")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edge_vqa' has no attribute {name!r}")
