"""Checkpoint or gguf pair -> bundle: read, check, quantise tensor by tensor, describe. A step that fails leaves nothing.

No float copy of the LM is written on the way: each tensor goes from the checkpoint through the quantiser into the bundle.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import architectures, ggml, parts, tokenizer, writer
from converters.architectures import Plan
from converters.checkpoint import Checkpoint
from converters.ggml import Floats
from converters.parts import FLOATS, Half
from converters.quantisers import hqq, iq4_nl, rtn
from converters.tokenizer import Tokenizer
from converters.writer import Entry
from edge_vqa import admission, bundle, gguf_file, ready
from edge_vqa.bundle import Manifest, Preprocessing, Prompt, Quantisation, Source
from edge_vqa.errors import EdgeVqaError
from edge_vqa.template import render

VISION_BACKENDS = {name: (role,) for name, role in bundle.BACKENDS.items()} | {"both": bundle.TOWERS}  # -> roles of files
VISION_TYPES = ("f32", "f16", "q8_0", "q4_0")  # never bf16: some runtimes cannot read it there
_FTYPES = rtn.FLOATS | {name: number for name, (_, number, _) in rtn.TYPES.items()}  # general.file_type

Progress = Callable[[str, int, int], None]  # step, parts done, parts in all


@dataclass(frozen=True)
class Options:
    """What the user chose. name and description go into the manifest."""

    quant: str = "rtn:q4_k_m"
    vision_type: str = "q8_0"
    vision_backend: str = "mtmd"
    onnx_type: str = "int8"
    name: str | None = None
    version: str = "1"
    licence: str = "unknown"
    description: str = ""
    source: str | None = None
    revision: str = ""
    instruction: str = ""
    max_tokens: int = 32
    detail: str = "low"
    threads: int = 1
    force: bool = False
    chat_template: str | None = None  # replaces the checkpoint's
    mmproj: Path | None = None  # of a gguf pair
    calibration: Path | None = None  # QUESTIONS.jsonl


@dataclass(frozen=True)
class Method:
    """A parsed --quant: `equalise` (MBQ) first, then rounding by `rtn` or `hqq` into `type`; `importance` weighs channels."""

    name: str
    rounding: str
    type: str
    equalise: bool = False
    importance: bool = False

    @property
    def calibrated(self) -> bool:
        return self.equalise or self.importance


METHODS = {
    "rtn": ("rtn", False, False),
    "hqq": ("hqq", False, False),
    "mbq+rtn": ("rtn", True, False),
    "mbq+hqq": ("hqq", True, False),
    "mbq-imatrix": ("rtn", False, True),
}


def parse_quant(quant: str) -> Method:
    """`rtn:q4_k_m` -> Method; a type alone means rtn. Raises EdgeVqaError."""
    name, _, type_ = quant.lower().rpartition(":")
    name = name or "rtn"
    if name not in METHODS:
        raise EdgeVqaError(f"quantisation method {name!r} is unknown", f"use one of {', '.join(METHODS)}, as in rtn:q4_k_m")
    rounding, equalise, importance = METHODS[name]
    types = (hqq.TYPE,) if rounding == "hqq" else (*FLOATS, *rtn.TYPES)
    if type_ not in types:
        raise EdgeVqaError(f"{name} knows no quantisation type {type_!r}", f"use one of {', '.join(types)}")
    return Method(name, rounding, type_, equalise, importance)


@dataclass(frozen=True)
class Model:
    """An MLLM ready to be written: both halves, and what the manifest says of it."""

    architecture: str
    lm: Half
    vision: Half
    preprocessing: Preprocessing
    prompt: Prompt


@contextlib.contextmanager
def opened(source: Path, options: Options) -> Iterator[Model]:
    """Read and check a checkpoint folder, a folder with a gguf pair, or an LM gguf (with `options.mmproj`)."""
    if source.suffix == ".gguf" or (source.is_dir() and not (source / "config.json").is_file() and any(source.glob("*.gguf"))):
        yield _from_gguf(*gguf_pair(source, options.mmproj), options)
        return
    with Checkpoint(source) as checkpoint:
        yield _from_checkpoint(checkpoint, options)


def gguf_pair(source: Path, mmproj: Path | None) -> tuple[Path, Path]:
    """LM and vision tower: a folder with one pair, or the LM's file beside `mmproj` or the only other gguf of its folder."""
    if source.is_dir():
        return ready.find_pair(source)
    if mmproj is None:
        lm, vision = ready.find_pair(source.parent)
        if lm != source:
            raise EdgeVqaError(f"{source} is no language model", "give the LM, and its vision tower with --mmproj")
        return lm, vision
    return source, mmproj


def _from_gguf(lm: Path, vision: Path, options: Options) -> Model:
    headers = gguf_file.read(lm), gguf_file.read(vision)
    architecture, preprocessing, prompt = ready.describe(
        *headers,
        instruction=options.instruction,
        max_tokens=options.max_tokens,
        detail=options.detail,
        template=options.chat_template,
    )
    return Model(architecture, parts.from_gguf(lm), parts.from_gguf(vision), preprocessing, prompt)


def _from_checkpoint(checkpoint: Checkpoint, options: Options) -> Model:
    preprocessor = checkpoint.json("preprocessor_config.json", required=False)
    architecture, plan = architectures.plan(checkpoint.config, preprocessor)
    checkpoint.rename(plan.renamed)
    parts.check(checkpoint, plan)
    words = tokenizer.read(checkpoint, plan.vocabulary, options.chat_template)
    _check_tokens(words, plan)
    prompt = render(
        words, plan.image_token, instruction=options.instruction, max_tokens=options.max_tokens, detail=options.detail
    )
    lm, vision = parts.from_checkpoint(checkpoint, plan, tokenizer.metadata(words))
    return Model(architecture, lm, vision, plan.preprocessing, prompt)


def _check_tokens(words: Tokenizer, plan: Plan) -> None:
    known = set(words.tokens)
    # byte-level BPE writes a line break as U+010A
    absent = [token for token in plan.required_tokens if token.replace("\n", "\u010a") not in known]
    if absent:
        raise EdgeVqaError(
            f"the vocabulary lacks {', '.join(map(repr, absent))}, which is written around a picture",
            "use an original checkpoint",
        )


def lm_types(lm: Half, type_: str) -> dict[str, str]:
    """gguf name -> stored type, in the order of the file: what has no layer first, then layer by layer, as llama.cpp sorts."""

    def place(name: str) -> tuple[int, str]:
        return (int(name.split(".")[1]), name) if name.startswith("blk.") else (-1, name)

    shapes = [(name, lm.tensors[name].shape) for name in sorted(lm.tensors, key=place)]
    heads = lm.number("attention.head_count", 1)
    keys = lm.number("attention.head_count_kv", heads)
    return rtn.tensor_types(shapes, type_, rtn.Shape(lm.number("block_count"), heads // keys))


def lm_entries(lm: Half, method: Method, threads: int, importance: dict[str, Floats]) -> list[Entry]:
    """The LM's tensors as they are to be written. importance: by gguf name, one number an input channel."""

    return [
        Entry(
            name,
            lm.tensors[name].shape,
            type_,
            lm.tensors[name].read,
            lm.tensors[name].origin,
            coder_of(method, type_, threads, importance.get(name)),
        )
        for name, type_ in lm_types(lm, method.type).items()
    ]


def coder_of(method: Method, type_: str, threads: int, importance: Floats | None = None) -> writer.Coder:
    """What makes blocks of `type_` under a method."""
    if method.rounding == "hqq" and type_ == hqq.TYPE:
        return lambda values: hqq.quantise(values, threads=threads)
    if type_ == "iq4_nl" and method.type != "iq4_nl":  # in place of a K-type
        return lambda values: iq4_nl.quantise(values, importance=importance, threads=threads)
    return writer.rounding(type_, threads, importance)


def vision_entries(vision: Half, type_: str, threads: int) -> list[Entry]:
    """The tower's tensors: matrices as `type_` where rows fit; the patch convolution f16 unless all is f32; the rest f32."""
    entries = []
    for name, part in vision.tensors.items():
        if name.startswith("v.patch_embd.weight"):
            stored = "f32" if type_ == "f32" else "f16"
        elif len(part.shape) == 1 or "position_embd" in name:
            stored = "f32"
        elif len(part.shape) > 2 or not name.endswith(".weight") or re.search(rtn.FLOAT_ONLY, name):  # other architectures'
            stored = part.dtype if part.dtype != "bf16" else "f16"
        else:
            stored = type_ if ggml.fits(type_, part.shape) else "f16"
        entries.append(Entry(name, part.shape, stored, part.read, part.origin, writer.rounding(stored, threads)))
    return entries


def convert(source: Path, output: Path, options: Options, progress: Progress = lambda step, done, total: None) -> Manifest:
    """Convert a checkpoint folder or a gguf pair into a bundle folder, and return its manifest.

    Everything is written beside `output` under a temporary name and renamed at the end. Raises EdgeVqaError.
    """
    if options.quant == "keep":
        return _keep(source, output, options)
    _check_options(options)
    with opened(source, options) as model:
        manifest = write(model, source, output, options, progress)
    if not (source.suffix == ".gguf" or list(source.glob("*.gguf"))):  # made here, every number of it
        admission.keep(bundle.read(output))
    return manifest


def _check_options(options: Options) -> None:
    method = parse_quant(options.quant)
    if options.vision_type not in VISION_TYPES:
        raise EdgeVqaError(f"vision type {options.vision_type!r} is unknown", f"use one of {', '.join(VISION_TYPES)}")
    if options.vision_backend not in VISION_BACKENDS:
        known = ", ".join(VISION_BACKENDS)
        raise EdgeVqaError(f"a vision backend {options.vision_backend!r} is unknown", f"use one of {known}")
    if options.vision_backend != "mtmd" and importlib.util.find_spec("onnx") is None:
        raise EdgeVqaError("onnx is not installed", 'pip install "edge-vqa[convert]"')
    if method.calibrated and options.calibration is None:
        raise EdgeVqaError(f"{method.name} needs questions to calibrate on", "give --calibration QUESTIONS.jsonl")
    if method.calibrated and importlib.util.find_spec("torch") is None:
        raise EdgeVqaError(f"{method.name} needs torch, which is not installed", 'pip install "edge-vqa[calibrate]"')


def write(
    model: Model, source: Path, output: Path, options: Options, progress: Progress = lambda step, done, total: None
) -> Manifest:
    """Quantise an opened model into a bundle folder; `source` only names it in the manifest."""
    method = parse_quant(options.quant)
    name = bundle.name_for(output, options.name)
    with bundle.new_folder(output, force=options.force) as work:
        vision = work / ready.FILES["vision"]
        general = {"general.name": name, "general.type": "mmproj", "general.file_type": _FTYPES[options.vision_type]}
        meta = {"general.architecture": "clip"} | general
        meta |= {key: value for key, value in model.vision.metadata.items() if key not in general}
        entries = vision_entries(model.vision, options.vision_type, options.threads)
        _write(vision, meta, entries, "vision tower", progress)
        half: Half = model.lm
        importance: dict[str, Floats] = {}
        if method.calibrated:
            from converters import calibration

            half, importance = calibration.apply(model, method, vision, options, progress)
        lm = work / ready.FILES["lm"]
        general = {"general.name": name, "general.type": "model"}
        words = {key: value for key, value in model.lm.metadata.items() if key.startswith("tokenizer.")}
        meta = {key: value for key, value in model.lm.metadata.items() if key not in words} | general | words
        if options.chat_template:
            meta["tokenizer.chat_template"] = options.chat_template
        meta |= {"general.quantization_version": 2} if method.type not in FLOATS else {}
        meta["general.file_type"] = _FTYPES[method.type]
        _write(lm, meta, lm_entries(half, method, options.threads, importance), "language model", progress)
        roles = VISION_BACKENDS[options.vision_backend]
        if "vision_onnx" in roles:
            _write_onnx(work / ready.FILES["vision_onnx"], model.vision, options.onnx_type, progress)
        if "vision" not in roles:
            vision.unlink()
        quantisation = Quantisation(
            method.name,
            method.type,
            ready.bits_per_weight(gguf_file.read(lm)),
            "+".join({"vision": options.vision_type, "vision_onnx": f"onnx-{options.onnx_type}"}[role] for role in roles),
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
