"""Whether a bundle that this device has not run before may be run: its claims are checked, then a child process answers a
question with it. The embedded bundles, and those made here from a checkpoint, need neither.

A verdict holds for the content of the files and for what the manifest says of prompt and pictures. It lies beside that of the
library, below `$EDGE_VQA_HOME/trials`; only what was admitted is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_vqa import bundle as bundles
from edge_vqa import child, claims, memory, native, onnx_file
from edge_vqa.bundle import BACKENDS, Bundle
from edge_vqa.errors import EdgeVqaError

AGAIN = "download or convert it again"
SECONDS, BYTES_A_SECOND = 30.0, 4 * 10**6  # of a trial: to begin with, and for the size of its files
SPARE = 256 * 2**20  # bytes beyond those that the files' size explains
UNLIMITED = 1 << 50  # the child has a limit of its own
MOST_TOKENS = 32_768  # that a picture may take

admitted = False  # in the trial itself


def admit(bundle: Bundle) -> None:
    """Raises EdgeVqaError, in one line, for a bundle that would end the process, hang or fill memory."""
    if admitted or is_known(bundle):
        return
    check(bundle)
    library = native.library()
    planned = max(memory.plan(bundle, need).total for need in _needs(bundle))
    request = {"bundle": str(bundle.folder), "library": asdict(library)}
    seconds = SECONDS + bundle.bytes / BYTES_A_SECOND
    ended = child.run("edge_vqa.trial_child", request, seconds=seconds, memory=2 * planned + SPARE)
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
    return bundle.folder.resolve().parent == bundles.EMBEDDED.resolve() or _path(bundle).is_file()


def keep(bundle: Bundle) -> None:
    """Remember that a bundle may be run. Where nothing can be kept, the next start tries again."""
    path = _path(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bundles.write_bytes(path, json.dumps({"name": bundle.name}).encode())
    except (OSError, EdgeVqaError):
        pass


def check(bundle: Bundle) -> None:
    """What can be judged from the files' headers. Raises EdgeVqaError."""
    if bundle.manifest.runtime.preprocessing.most_tokens > MOST_TOKENS:
        raise EdgeVqaError(f"a picture of {bundle.name} takes more than {MOST_TOKENS} tokens", AGAIN)
    claims.check(bundle.files["lm"], bundle.files.get("vision"))
    if "vision_onnx" in bundle.files:
        onnx_file.check(bundle.files["vision_onnx"], onnx_file.TOWER)


def attempt(folder: str) -> Any:
    """The child's side: ask a question with each vision tower and each Selector; yields what it is about to do."""
    global admitted
    admitted = True
    import numpy as np

    from edge_vqa import confidence as confidences
    from edge_vqa.device import Threads
    from edge_vqa.model import Model, Options

    try:
        bundle = bundles.read(Path(folder))
        for backend in _backends(bundle):
            yield f"loading it ({backend})"
            options = Options(confidence="maxprob", vision=backend, threads=Threads.of(2), watch=False, memory_limit=UNLIMITED)
            with Model(bundle, options) as model:
                yield "answering a question"
                picture = np.zeros((64, 96, 3), np.uint8)
                picture[16:48, 24:72] = (220, 20, 20)
                trace = model.ask(picture, "what is this?", gate=False, max_tokens=3).trace
    except EdgeVqaError as error:
        yield {"what": error.what, "todo": error.todo}
        return
    for method in (confidences.Selector, confidences.SelectorEarly):
        if method.role in bundle.files:
            yield f"scoring it ({method.name})"
            with contextlib.suppress(EdgeVqaError):  # who uses it is told then: another method may do
                method(bundle).score(trace)


def _backends(bundle: Bundle) -> list[str]:
    return [backend for backend, role in BACKENDS.items() if role in bundle.files]


def _needs(bundle: Bundle) -> list[memory.Need]:
    from edge_vqa.engine import room_for

    context = room_for(bundle.manifest.runtime.preprocessing)
    return [memory.Need(backend, context) for backend in _backends(bundle)]


def _path(bundle: Bundle) -> Path:
    manifest = bundle.manifest
    files = sorted((role, file.sha256) for role, file in manifest.files.items())
    said = (files, manifest.prompt, manifest.runtime.preprocessing, manifest.selectors, native.version())
    return bundles.home() / "trials" / f"bundle-{hashlib.sha256(repr(said).encode()).hexdigest()[:32]}"
