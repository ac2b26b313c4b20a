"""The Hugging Face hub: huggingface_hub (the extra `pull`) does the talking."""

from __future__ import annotations

import sys
from typing import Any

from edge_vqa.errors import EdgeVqaError


def client() -> Any:
    """The module huggingface_hub. Raises EdgeVqaError where it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise EdgeVqaError("huggingface_hub is not installed", 'pip install "edge-vqa[pull]"') from None
    import huggingface_hub.utils

    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


def split(name: str) -> tuple[str, str | None]:
    """`OWNER/REPO[@REVISION]` -> repository and revision."""
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise EdgeVqaError(f"{name!r} is no repository", "give OWNER/REPO, as in ggml-org/SmolVLM-500M-Instruct-GGUF")
    return repository, revision or None


def short(repository: str) -> str:
    """What a bundle pulled from OWNER/REPO is called."""
    return repository.split("/")[1].removesuffix("-GGUF").removesuffix("-gguf")


def status(error: Exception) -> int | None:
    """Of the reply that made the client raise."""
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: Exception) -> str:
    """What the client raised, short."""
    return " ".join(str(error).split())[:150] or type(error).__name__
