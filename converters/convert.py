"""Checkpoint or gguf pair -> bundle: read, check, quantise tensor by tensor, describe. A step that fails leaves nothing.

No float copy of the LM is written on the way: each tensor goes from the checkpoint through the quantiser into the bundle.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.files import writer
from converters.files.parts import FLOATS, Half
from converters.files.writer import Entry
from converters.ggml import Floats
from converters.method import lm_entries, parse_quant, vision_entries
from converters.options import RECOVER_BY, VISION_BACKENDS, VISION_TYPES, Options, Progress
from converters.quantisers import rtn
from converters.source import Model, gguf_pair, opened
from edge_vqa.bundles import gguf_file, ready, store
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles.manifest import Manifest, Quantisation, Source
from edge_vqa.device import admission
from edge_vqa.errors import EdgeVqaError

_FTYPES = rtn.FLOATS | {name: number for name, (_, number, _) in rtn.TYPES.items()}  # general.file_type


def convert(
    source: Path,
    output: Path,
    options: Options,
    progress: Progress = lambda step, done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Convert a checkpoint folder or a gguf pair into a bundle folder, and return its manifest.

    Everything is written beside `output` under a temporary name and renamed at the end. notice: is told, line by line, what
    recovery comes to. Raises EdgeVqaError.
    """
    if options.quant == "keep":
        if options.recover is not None:
            raise EdgeVqaError("a gguf that is kept as it is cannot be recovered", "choose a type: --quant rtn:q4_k_xs")
        return _keep(source, output, options)
    _check_options(options)
    with opened(source, options) as model:
        manifest = write(model, source, output, options, progress, notice)
    if not (source.suffix == ".gguf" or list(source.glob("*.gguf"))):  # made here, every number of it
        admission.keep(store.read(output))
    return manifest


def _check_options(options: Options) -> None:
    method = parse_quant(options.quant)
    if options.vision_type not in VISION_TYPES:
        raise EdgeVqaError(f"vision type {options.vision_type!r} is unknown", f"use one of {', '.join(VISION_TYPES)}")
    if options.vision_backend not in (None, *VISION_BACKENDS):
        known = ", ".join(VISION_BACKENDS)
        raise EdgeVqaError(f"a vision backend {options.vision_backend!r} is unknown", f"use one of {known}")
    if options.recover is not None:
        if options.recover.by not in RECOVER_BY:
            known = ", ".join(RECOVER_BY)
            raise EdgeVqaError(f"recovery by {options.recover.by!r} is unknown", f"use one of {known}")
        if method.type in FLOATS:
            raise EdgeVqaError(f"nothing is lost in {method.type}, there is nothing to recover", "choose a type of fewer bits")
        if options.recover.minutes <= 0:
            raise EdgeVqaError("recovery takes a while", "give --recover-minutes 30")
    if method.calibrated and options.calibration is None:
        raise EdgeVqaError(f"{method.name} needs questions to calibrate on", "give --calibration QUESTIONS.jsonl")
    if (method.calibrated or options.recover) and importlib.util.find_spec("torch") is None:
        what = method.name if method.calibrated else "recovery"
        raise EdgeVqaError(f"{what} needs torch, which is not installed", 'pip install "edge-vqa[calibrate]"')


def write(
    model: Model,
    source: Path,
    output: Path,
    options: Options,
    progress: Progress = lambda step, done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Quantise an opened model into a bundle folder; `source` only names it in the manifest."""
    method = parse_quant(options.quant)
    name = manifests.name_for(output, options.name)
    if model.onnx_only and options.vision_backend not in (None, "onnx"):
        raise EdgeVqaError(f"llama.cpp has no graph for the vision tower of {model.architecture}", "give --vision-backend onnx")
    roles = VISION_BACKENDS[options.vision_backend or ("onnx" if model.onnx_only else "mtmd")]
    if "vision_onnx" in roles and model.tower is None and importlib.util.find_spec("onnx") is None:
        raise EdgeVqaError("onnx is not installed", 'pip install "edge-vqa[convert]"')
    with store.new_folder(output, force=options.force) as work:
        tower, backend = _see(model, work, name, options, progress)
        half: Half = model.lm
        importance: dict[str, Floats] = {}
        if method.calibrated:
            from converters import calibration

            half, importance = calibration.apply(model, method, tower, backend, options, progress)
        lm = work / ready.FILES["lm"]
        general = {"general.name": name, "general.type": "model"}
        words = {key: value for key, value in model.lm.metadata.items() if key.startswith("tokenizer.")}
        meta = {key: value for key, value in model.lm.metadata.items() if key not in words} | general | words
        if options.chat_template:
            meta["tokenizer.chat_template"] = options.chat_template
        meta |= {"general.quantization_version": 2} if method.type not in FLOATS else {}
        meta["general.file_type"] = _FTYPES[method.type]
        entries = lm_entries(half, method, options.threads, importance)
        if options.recover is not None:
            from converters.recovery import conversion

            entries, recovered = conversion.apply(model, half, entries, tower, backend, output, options, progress, notice)
            notice(str(recovered))
        _write(lm, meta, entries, "language model", progress)
        quantisation = Quantisation(
            method.name + ("+recovered" if options.recover else ""),
            method.type,
            ready.bits_per_weight(gguf_file.read(lm)),
            model.tower[1] if model.tower else _finish_towers(model, tower, roles, options, progress),
            str(options.calibration.name) if method.calibrated and options.calibration else None,
        )
        return ready.write_manifest(
            work,
            name=name,
            version=options.version,
            licence=options.licence,
            description=options.description or f"{source.resolve().name}, {method.type}",
            source=Source(options.source or source.resolve().name, options.revision),
            architecture=model.architecture,
            quantisation=quantisation,
            prompt=model.prompt,
            preprocessing=model.preprocessing,
        )


def _see(model: Model, work: Path, name: str, options: Options, progress: Progress) -> tuple[Path, str]:
    """Write the vision tower, or copy that of a bundle; what runs it."""
    graph = work / ready.FILES["vision_onnx"]
    if model.tower is not None:
        return shutil.copyfile(model.tower[0], graph), "onnx"
    assert model.vision is not None
    if model.onnx_only:
        _write_onnx(graph, model.vision, options.onnx_type, progress)
        return graph, "onnx"
    path = work / ready.FILES["vision"]
    general = {"general.name": name, "general.type": "mmproj", "general.file_type": _FTYPES[options.vision_type]}
    meta = {"general.architecture": "clip"} | general
    meta |= {key: value for key, value in model.vision.metadata.items() if key not in general}
    entries = vision_entries(model.vision, options.vision_type, options.threads)
    _write(path, meta, entries, "vision tower", progress)
    return path, "mtmd"


def _finish_towers(model: Model, tower: Path, roles: tuple[str, ...], options: Options, progress: Progress) -> str:
    """Write the ONNX graph where it is wanted and not there, remove the gguf where it is not wanted; their types."""
    assert model.vision is not None
    graph = tower.with_name(ready.FILES["vision_onnx"])
    if "vision_onnx" in roles and tower != graph:
        _write_onnx(graph, model.vision, options.onnx_type, progress)
    if "vision" not in roles and tower != graph:
        tower.unlink()
    return "+".join({"vision": options.vision_type, "vision_onnx": f"onnx-{options.onnx_type}"}[role] for role in roles)


def _write_onnx(path: Path, tower: Half, type_: str, progress: Progress) -> None:
    from converters import vision_onnx

    vision_onnx.write(path, tower, type_, _counter("vision tower, onnx", vision_onnx.weights(tower), progress))


def _keep(source: Path, output: Path, options: Options) -> Manifest:
    """A bundle of a gguf pair as it is."""
    lm, vision = gguf_pair(source, options.mmproj)
    return ready.adopt(
        lm,
        vision,
        output,
        Source(options.source or source.resolve().name, options.revision),
        force=options.force,
        name=options.name,
        version=options.version,
        licence=options.licence,
        description=options.description,
        instruction=options.instruction,
        max_tokens=options.max_tokens,
        detail=options.detail,
        template=options.chat_template,
    )


def _write(path: Path, metadata: dict[str, Any], entries: list[Entry], step: str, progress: Progress) -> None:
    writer.write(path, metadata, entries, _counter(step, sum(entry.weights for entry in entries), progress))


def _counter(step: str, total: int, progress: Progress) -> Callable[[int], None]:
    """Adds up weights as they are done, and reports the sum."""
    done = 0

    def count(weights: int) -> None:
        nonlocal done
        done += weights
        progress(step, done, total)

    progress(step, 0, total)
    return count
