"""Whether a bundle that this device has not run before may be run: its claims are checked, then a child process answers a
question with it. The embedded bundles, and those made here from a checkpoint, need neither.

A verdict holds for the content of the files and for what the manifest says of prompt and pictures. It lies beside that of the
library, below `$EDGE_VQA_HOME/trials`; only what was admitted is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from edge_vqa.border import child
from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import claims, onnx_file, store
from edge_vqa.bundles.manifest import BACKENDS, llama_cpp_version
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import memory
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import bindings, trial

AGAIN = "download or convert it again"
SECONDS, BYTES_A_SECOND = 30.0, 4 * 10**6  # of a trial: to begin with, and for the size of its files
SPARE = 256 * 2**20  # bytes beyond those that the files' size explains
MOST_TOKENS = 32_768  # that a picture may take

trying = False  # in the trial itself


def admit(bundle: Bundle) -> None:
    """Raises EdgeVqaError, in one line, for a bundle that would end the process, hang or fill memory."""
    if trying or is_known(bundle):
        return
    check(bundle)
    library = bindings.library()
    plans = [memory.plan(bundle, need) for need in _needs(bundle)]
    allowed = max(2 * plan.total + plan.untouched for plan in plans) + SPARE
    request = {"bundle": str(bundle.folder), "library": asdict(library)}
    seconds = SECONDS + bundle.bytes / BYTES_A_SECOND
    ended = child.run(trial.CHILD, request, seconds=seconds, memory=allowed)
    if not ended.started:
        raise EdgeVqaError(
            f"{bundle.name} was not run here before, and {ended.reason} to try it", "allow processes, or use another bundle"
        )
    failed = next((line for line in ended.lines if isinstance(line, dict)), None)
    if failed is not None:
        raise EdgeVqaError(failed["what"], failed["todo"])
    if ended.reason:
        doing = ended.lines[-1] if ended.lines else "starting"
        raise EdgeVqaError(f"{bundle.name} does not work here: {ended.reason} while {doing}", AGAIN)
    keep(bundle)


def is_known(bundle: Bundle) -> bool:
    """Whether it was admitted before, made here, or comes with the package."""
    return bundle.folder.resolve().parent == store.EMBEDDED.resolve() or _path(bundle).is_file()


def keep(bundle: Bundle) -> None:
    """Remember that a bundle may be run. Where nothing can be kept, the next start tries again."""
    path = _path(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"name": bundle.name}).encode())
    except (OSError, EdgeVqaError):
        pass


def check(bundle: Bundle) -> None:
    """What can be judged from the files' headers. Raises EdgeVqaError."""
    if bundle.manifest.runtime.preprocessing.most_tokens > MOST_TOKENS:
        raise EdgeVqaError(f"a picture of {bundle.name} takes more than {MOST_TOKENS} tokens", AGAIN)
    claims.check(bundle.files["lm"], bundle.files.get("vision"))
    if "vision_onnx" in bundle.files:
        onnx_file.check(bundle.files["vision_onnx"], onnx_file.TOWER)


def backends(bundle: Bundle) -> list[str]:
    """What its vision towers need."""
    return [backend for backend, role in BACKENDS.items() if role in bundle.files]


def _needs(bundle: Bundle) -> list[memory.Need]:
    from edge_vqa.llm.engine import room_for

    context = room_for(bundle.manifest.runtime.preprocessing)
    return [memory.Need(backend, context) for backend in backends(bundle)]


def _path(bundle: Bundle) -> Path:
    manifest = bundle.manifest
    files = sorted((role, file.sha256) for role, file in manifest.files.items())
    said = (files, manifest.prompt, manifest.runtime.preprocessing, manifest.estimators, llama_cpp_version())
    return store.home() / "trials" / f"bundle-{hashlib.sha256(repr(said).encode()).hexdigest()[:32]}"
