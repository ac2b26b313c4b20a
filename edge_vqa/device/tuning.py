"""What is fastest on this device: the backend of the vision tower and the numbers of threads, measured once and remembered.

A choice holds for the files of a bundle, the machine and the versions of both run-times. It lies below
`$EDGE_VQA_HOME/tuned`; a file that does not read is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_vqa.border.typed import typed
from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import BACKENDS, Preprocessing, llama_cpp_version
from edge_vqa.bundles.store import Bundle
from edge_vqa.device.profile import MOST_THREADS, cores, cpu_name, default_threads
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.threads import Threads
from edge_vqa.native import bindings
from edge_vqa.pictures.open import Rgb

SCHEMA = 1
TOGETHER = 8


@dataclass(frozen=True)
class Choice:
    """How a bundle runs on this device."""

    vision: str
    threads: Threads
    together: int = TOGETHER  # questions that `ask_many` answers together


def choose(
    bundle: Bundle, vision: str | None = None, threads: Threads | None = None, most_threads: int = MOST_THREADS
) -> Choice:
    """What the user asked for, else what was measured, else the backend that there is, with threads by size.

    Where a bundle has both backends and nothing is known, they are measured now: a second or two, once. Raises EdgeVqaError
    for a backend that the bundle lacks.
    """
    offered = backends(bundle)
    if vision is not None and vision not in offered:
        known = vision in BACKENDS
        what = f"{bundle.name} has no vision tower for {vision}" if known else f"a vision backend {vision!r} is unknown"
        raise EdgeVqaError(what, f"use {' or '.join(offered if known else BACKENDS)}")
    stored = read(bundle)
    threads = threads or (stored.threads if stored else default_threads(bundle.manifest.files["lm"].bytes, most_threads))
    if vision is None and len(offered) > 1 and bindings.library().onnxruntime:  # it does not work on this CPU
        offered = [name for name in offered if name != "onnx"]
    if vision is None and len(offered) > 1:
        vision = stored.vision if stored else faster(bundle, offered, threads)
        if stored is None:
            write(bundle, Choice(vision, threads))
    return Choice(vision or offered[0], threads, stored.together if stored else TOGETHER)


def backends(bundle: Bundle) -> list[str]:
    """What runs a vision tower of the bundle; first the one that its scores hold for."""
    files, own = bundle.manifest.files, bundle.manifest.runtime.tower
    return sorted((name for name, role in BACKENDS.items() if role in files), key=lambda name: BACKENDS[name] != own)


def faster(bundle: Bundle, offered: list[str], threads: Threads) -> str:
    """The backend that encodes a picture fastest here."""
    times = tower_times(bundle, [(name, threads.vision) for name in offered])
    return min(times, key=times.__getitem__)[0]


def tower_times(
    bundle: Bundle, settings: Sequence[tuple[str, int]], progress: Callable[[int], None] = lambda done: None
) -> dict[tuple[str, int], float]:
    """Seconds that a picture takes by backend and threads: the best of three, after one to warm up. One tower is in memory at
    a time."""
    import time

    from edge_vqa.llm.llama import Llama
    from edge_vqa.vision.tower import open_tower

    pixels = bundle.manifest.runtime.preprocessing
    tile = noise_tile(pixels)
    times: dict[tuple[str, int], float] = {}
    lm = Llama(bundle.files["lm"], context=64, threads=Threads.of(1))  # mtmd asks for it
    try:
        for number, (backend, count) in enumerate(settings):
            progress(number)
            tower = open_tower(backend, bundle.files[BACKENDS[backend]], pixels, count)(lm.model, lm.n_embd_in)
            try:
                seconds = []
                for _ in range(4):
                    began = time.perf_counter()
                    tower.encode(tile)
                    seconds.append(time.perf_counter() - began)
                times[backend, count] = min(seconds[1:])
            finally:
                tower.close()
        progress(len(settings))
    finally:
        lm.close()
    return times


def noise_tile(pixels: Preprocessing) -> Rgb:
    """What a tower gets at low detail, uint8 [h, w, 3]: noise, whose speed is that of any picture."""
    import numpy as np

    units = math.isqrt(pixels.low_tokens) if pixels.method in ("dynamic", "longest") else 1
    side = pixels.tile * max(1, units)
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def path_of(bundle: Bundle) -> Path:
    """Where the choice for this bundle, machine and build lies."""
    from importlib.metadata import version

    files = sorted(f"{role} {file.sha256}" for role, file in bundle.manifest.files.items() if role in ("lm", *manifests.TOWERS))
    built = (llama_cpp_version(), version("onnxruntime"))
    machine = (platform.machine(), cpu_name(), cores())
    key = hashlib.sha256(repr((SCHEMA, files, built, machine)).encode()).hexdigest()[:16]
    return store.home() / "tuned" / f"{bundle.name}-{key}.json"


def read(bundle: Bundle) -> Choice | None:
    """The choice for this device, or None."""
    if not (store.home() / "tuned").is_dir():
        return None
    try:
        stored = json.loads(path_of(bundle).read_text())
        choice: Choice = typed(stored, Choice, "")
        Threads.of(choice.threads)
        if not 1 <= choice.together <= 64:
            return None
        return choice if choice.vision in backends(bundle) else None
    except (OSError, ValueError, EdgeVqaError, RecursionError):
        return None


def write(bundle: Bundle, choice: Choice) -> None:
    """Remember a choice; where nothing can be written, the next start measures again."""
    path = path_of(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(asdict(choice)).encode())
    except (OSError, EdgeVqaError):
        pass
