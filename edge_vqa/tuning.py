"""What is fastest on this device: the backend of the vision tower and the numbers of threads, measured once and remembered.

A choice holds for the files of a bundle, the machine and the versions of both run-times. It lies below
`$EDGE_VQA_HOME/tuned`; a file that does not read is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_vqa import bundle as bundles
from edge_vqa import native
from edge_vqa.bundle import BACKENDS, Bundle, Preprocessing, write_bytes
from edge_vqa.device import MOST_THREADS, Threads, cores, cpu_name, default_threads
from edge_vqa.errors import EdgeVqaError
from edge_vqa.picture import Rgb

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
    if vision is None and native.library().onnxruntime:  # it does not work on this CPU
        offered = [name for name in offered if name != "onnx"] or offered
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
    """The backend that encodes a picture fastest here: the best of three, after one to warm up, in turn."""
    import time

    from edge_vqa.llama import Llama
    from edge_vqa.vision import Tower, open_tower

    pixels = bundle.manifest.runtime.preprocessing
    tile = noise_tile(pixels)
    times: dict[str, list[float]] = {name: [] for name in offered}
    towers: dict[str, Tower] = {}
    lm = Llama(bundle.files["lm"], context=64, threads=threads)  # mtmd asks for it
    try:
        for name in offered:
            finish = open_tower(name, bundle.files[BACKENDS[name]], pixels, threads.vision)
            towers[name] = finish(lm.model, lm.n_embd_in)
        for _ in range(4):
            for name, tower in towers.items():
                began = time.perf_counter()
                tower.encode(tile)
                times[name].append(time.perf_counter() - began)
    finally:
        for tower in towers.values():
            tower.close()
        lm.close()
    return min(offered, key=lambda name: min(times[name][1:]))


def noise_tile(pixels: Preprocessing) -> Rgb:
    """What a tower gets at low detail, uint8 [h, w, 3]: noise, whose speed is that of any picture."""
    import numpy as np

    side = pixels.tile * max(1, math.isqrt(pixels.low_tokens))
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def path_of(bundle: Bundle) -> Path:
    """Where the choice for this bundle, machine and build lies."""
    from importlib.metadata import version

    files = sorted(f"{role} {file.sha256}" for role, file in bundle.manifest.files.items() if role in ("lm", *bundles.TOWERS))
    built = (native.version(), version("onnxruntime"))
    machine = (platform.machine(), cpu_name(), cores())
    key = hashlib.sha256(repr((SCHEMA, files, built, machine)).encode()).hexdigest()[:16]
    return bundles.home() / "tuned" / f"{bundle.name}-{key}.json"


def read(bundle: Bundle) -> Choice | None:
    """The choice for this device, or None."""
    if not (bundles.home() / "tuned").is_dir():
        return None
    try:
        stored = json.loads(path_of(bundle).read_text())
        choice: Choice = bundles.typed(stored, Choice, "")
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
