"""Looks whether a bundle can do its work on this device: board, CPU, memory, disk, files, a self-test, drift."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import memory, sensors
from edge_vqa.device import profile as devices
from edge_vqa.device.tuning import backends
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import room_for
from edge_vqa.model import Model
from edge_vqa.native import bindings, onnx_runtime, trial
from edge_vqa.pictures.open import Rgb
from edge_vqa.session.options import Options
from edge_vqa.trust import confidence as confidences
from edge_vqa.trust import watch as watching

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
EIGHT_BIT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
LEAST_DISK = 100 * 10**6  # bytes: encoded pictures, results, counts
HOT = 80.0  # degrees Celsius: from here on a Raspberry Pi lowers its clock
DIFFERENT = 0.02  # of the length of an embedding
RED, BLUE = (220, 20, 20), (20, 20, 220)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. todo: what to do about it, empty where nothing need be done."""

    level: str
    about: str
    text: str
    todo: str = ""


def examine(
    name: str | Path | None = None,
    *,
    confidence: str | None = None,
    device: str | None = None,
    root: Path = Path("/"),
    test: bool = True,
) -> Iterator[Finding]:
    """Look at everything in turn. root: where /proc, /sys and /etc are. test: whether to load the bundle and ask it."""
    found = devices.detect(root)
    profile = devices.profile_of(device) if device else found.profile
    yield from _device(found, profile, chosen=device is not None)
    yield from _cpu(found, root)
    yield from _board(root)
    yield from _disk()
    try:
        bundle = store.read(name)
        store.verify(bundle, thorough=True)
    except EdgeVqaError as error:
        yield Finding(PROBLEM, "bundle", error.what, error.todo)
        return
    if bundle.instead_of:
        yield Finding(WARNING, "bundle", bundle.instead_of, "update it: pip install --upgrade edge-vqa-base")
    sizes = f"{len(bundle.files)} files intact, {bundle.bytes / 1e6:.1f} MB"
    yield Finding(OK, "bundle", f"{bundle.name} {bundle.manifest.version}: {sizes}")
    fits = True
    for finding in _memory(bundle, profile, root):
        fits = fits and finding.level != PROBLEM
        yield finding
    yield from _trust(bundle)
    if test and fits:
        yield from _ask(bundle, confidence, device)
    yield from _drift(bundle, confidence)


def _device(found: devices.Device, profile: devices.Profile, *, chosen: bool) -> Iterator[Finding]:
    how = "as asked for" if chosen else f"by {found.how}"
    text = f"{found.model}; profile {profile.name} ({how})"
    if not found.known and not chosen:
        yield Finding(NOTE, "device", text, "if it is like a known board: --device NAME")
    else:
        yield Finding(OK, "device", text)
    better = profile.recommended
    yield Finding(OK, "recommended", f"{better.bundle}, {better.quantisation}, detail {better.detail}")


def _cpu(found: devices.Device, root: Path) -> Iterator[Finding]:
    cores = devices.cores()
    text = f"{found.cpu}, {cores} core{'s' * (cores != 1)}"
    try:
        library, compiled = bindings.library(), bindings.cpu_features()
    except EdgeVqaError as error:
        yield Finding(OK, "cpu", text)
        yield Finding(PROBLEM, "llama.cpp", error.what, error.todo)
        return
    lacking = [name for name in sorted(trial.own_features(found.features) - compiled) if not _needless(name, compiled)]
    if lacking and not library.variant:  # a build of several variants has what its best one for this CPU has
        yield Finding(
            WARNING,
            "llama.cpp",
            f"the CPU has {', '.join(lacking)}, llama.cpp was compiled without: it runs slower than it could",
            trial.rebuild(trial.NATIVE if "AMX_INT8" in compiled or "amx_int8" not in found.features else trial.WITHOUT_AMX),
        )
    unused = {"AMX_INT8"} & compiled if not library.amx else set()
    used = ", ".join(sorted(compiled & set(trial.FEATURES.values()) - unused)) or "none"
    idle = f"; compiled in, but not used: {', '.join(unused)}" if unused else ""
    variant = f" ({library.variant})" if library.variant else ""
    extra = ", extra buffer types" if library.extra_buffers else ""
    yield Finding(OK, "cpu", f"{text}; llama.cpp uses {used}{extra}{variant}{idle}")
    for tried in library.off:
        yield Finding(NOTE, "llama.cpp", f"switched off: {tried}")
    if library.onnxruntime:
        said = onnx_runtime.unusable(library.onnxruntime)
        yield Finding(PROBLEM, "onnxruntime", said.what, said.todo)
    others = sensors.busy(root)
    if others is not None and others >= sensors.BUSY:
        text = f"other programs keep {others:.1f} cores busy: sharing a core slows a model by far more than the share"
        yield Finding(NOTE, "cpu", text)
    if found.features and not found.features & set(EIGHT_BIT):
        yield Finding(NOTE, "cpu", "no 8-bit dot products: an int8 vision tower gains less here")


def _needless(name: str, compiled: frozenset[str]) -> bool:
    """Whether an instruction set is no loss: AMX, which compilers of today get wrong, and what a wider one replaces."""
    return name == "AMX_INT8" or (name == "AVX_VNNI" and "AVX512_VNNI" in compiled) or (name == "NEON" and "SVE" in compiled)


def _board(root: Path) -> Iterator[Finding]:
    degrees, held = sensors.temperature(root), sensors.throttling(root)
    said = [
        f"{degrees:.0f} °C" if degrees is not None else "",
        f"power mode {mode}" if (mode := sensors.power_mode(root)) else "",
    ]
    told = ", ".join(filter(None, said)) or "no sensors"
    if held and held.now:
        yield Finding(WARNING, "board", f"the clock is held down: {', '.join(held.now)}; {told}", "cool it, or power it better")
    elif degrees is not None and degrees >= HOT:
        yield Finding(WARNING, "board", f"hot: {told}", "cool it: soon the clock is held down")
    else:
        before = f"; held down since start-up: {', '.join(held.before)}" if held and held.before else ""
        yield Finding(NOTE if before else OK, "board", told + before)


def _disk() -> Iterator[Finding]:
    home = store.home()
    place = next(folder for folder in (home, *home.parents) if folder.is_dir())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield Finding(WARNING, "disk", f"{place} cannot be looked at ({error.strerror})", "set EDGE_VQA_HOME to another folder")
        return
    if not os.access(place, os.W_OK):
        yield Finding(WARNING, "disk", f"{place} cannot be written", "set EDGE_VQA_HOME to a folder that can")
    elif free < LEAST_DISK:
        yield Finding(
            WARNING, "disk", f"full: {free // 10**6} MB are free at {place}", "make room, or set EDGE_VQA_HOME elsewhere"
        )
    else:
        yield Finding(OK, "disk", f"{free / 1e9:.1f} GB free at {place}")


def _memory(bundle: Bundle, profile: devices.Profile, root: Path) -> Iterator[Finding]:
    found = devices.memory_bytes(root)
    if found is None:
        yield Finding(NOTE, "memory", "nothing says how much there is")
        return
    total, free = found
    room = room_for(bundle.manifest.runtime.preprocessing)
    need = memory.Need(backends(bundle)[0], profile.run.context_in(room), profile.run.kv_type)
    try:
        limit = int(profile.run.memory_limit * free)
        planned = memory.check(bundle, need, limit, "{} MB of the free memory may be taken").total
    except EdgeVqaError as error:
        yield Finding(PROBLEM, "memory", error.what, error.todo)
        return
    text = f"{bundle.name} takes about {memory.megabytes(planned)} MB of {free // 10**6} MB free ({total // 10**6} MB in all)"
    yield Finding(OK, "memory", text)


def _trust(bundle: Bundle) -> Iterator[Finding]:
    manifest = bundle.manifest
    fit = f"edge-vqa-selector fit {bundle.name} --data questions.jsonl"
    if "selector" not in manifest.files:
        yield Finding(WARNING, "selector", "there is none: confidence is the model's own", fit)
    if not manifest.operating_points:
        yield Finding(WARNING, "selector", "no thresholds: verdicts are uncalibrated", fit)


def _ask(bundle: Bundle, confidence: str | None, device: str | None) -> Iterator[Finding]:
    """A self-test: two pictures that differ in colour only."""
    try:
        with Model(bundle, Options(confidence=confidence, device=device, watch=False)) as model:
            for warning in model.warnings:
                yield Finding(
                    WARNING, "build", warning, "pip install llama-cpp-python==" + bundle.manifest.runtime.llama_cpp_python
                )
            red, blue = (model.ask(_plain(colour), "what is this?", gate=False).trace.image for colour in (RED, BLUE))
            length = max(float(np.linalg.norm(red)), float(np.linalg.norm(blue)), 1e-30)
            apart = float(np.linalg.norm(red - blue)) / length
            if not apart > DIFFERENT:  # also where it is no number
                yield Finding(
                    PROBLEM,
                    "self-test",
                    f"a red and a blue picture look the same to it (embeddings {apart:.3f} apart)",
                    "its vision tower is broken, or of another model: convert or download the bundle again",
                )
                return
            if bundle.folder == store.find(None):
                said = [model.ask(_square(colour), "what color is the shape?", gate=False).candidate for colour in (RED, BLUE)]
                if said != ["red", "blue"]:
                    yield Finding(
                        PROBLEM,
                        "self-test",
                        f"a red and a blue shape are {said[0]!r} and {said[1]!r} to it",
                        "install edge-vqa again",
                    )
                    return
            yield Finding(OK, "self-test", f"red and blue pictures differ, loaded in {model.load_s:.2f} s")
    except EdgeVqaError as error:
        yield Finding(PROBLEM, "self-test", error.what, error.todo)


def _drift(bundle: Bundle, confidence: str | None) -> Iterator[Finding]:
    """Whether confidence on this device still is what it was in calibration."""
    try:
        method = confidences.choose(bundle, confidence).name
    except EdgeVqaError as error:
        yield Finding(PROBLEM, "confidence", error.what, error.todo)
        return
    if not any(c.confidence == method for c in bundle.manifest.calibration):
        yield Finding(NOTE, "drift", f"its {method} was not calibrated, so there is nothing to compare with")
        return
    drift = watching.compare(bundle, method)
    if drift is None:
        seen = len(watching.read(bundle, method))
        text = f"{seen} of the {watching.LEAST} questions needed were watched"
        yield Finding(NOTE, "drift", text, "--watch or EDGE_VQA_WATCH=1 does")
        return
    if not drift.warnings:
        yield Finding(OK, "drift", f"the last {drift.n} questions look like those of its calibration")
    for warning in drift.warnings:
        yield Finding(
            WARNING,
            "drift",
            f"{warning}: thresholds may not keep their risk here",
            "fit them to your pictures with edge-vqa-selector fit",
        )


def _plain(colour: tuple[int, int, int]) -> Rgb:
    return np.broadcast_to(np.array(colour, np.uint8), (128, 128, 3)).copy()


def _square(colour: tuple[int, int, int]) -> Rgb:
    """The embedded model was trained on coloured shapes, not on plain pictures."""
    made = np.full((128, 128, 3), 255, np.uint8)
    made[32:96, 32:96] = colour
    return made
