"""Checkpoint -> bundle: plan, check, write the two ggufs, quantise, describe. Nothing is left behind when a step fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from converters import architectures, prompting, tokenizer, writer
from converters.architectures import Plan, Rule, Tensor
from converters.checkpoint import Checkpoint
from converters.quantisers import rtn
from converters.tokenizer import Tokenizer
from converters.writer import Entry
from edge_vqa import bundle, native
from edge_vqa.bundle import Manifest, Quantisation, Runtime, Source
from edge_vqa.errors import EdgeVqaError

FLOATS = ("f32", "f16", "bf16")
VISION_TYPES = ("f32", "f16", "q8_0", "q4_0")
_FTYPES = {"f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q8_0": 7}  # general.file_type

Progress = Callable[[str, int, int], None]  # step, parts done, parts in all


@dataclass(frozen=True)
class Options:
    """What the user chose. name and description go into the manifest."""

    quant: str = "rtn:q4_k_m"
    vision_type: str = "f16"
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


def parse_quant(quant: str) -> tuple[str, str]:
    """`rtn:q4_k_m` -> (`rtn`, `q4_k_m`); a type alone means rtn."""
    method, _, type_ = quant.lower().rpartition(":")
    method = method or "rtn"
    if method != "rtn":
        raise EdgeVqaError(f"quantisation method {method!r} is unknown", "use rtn, as in --quant rtn:q4_k_m")
    if type_ not in (*FLOATS, *rtn.TYPES):
        raise EdgeVqaError(f"quantisation type {type_!r} is unknown", f"use one of {', '.join((*FLOATS, *rtn.TYPES))}")
    return method, type_


def check(checkpoint: Checkpoint, plan: Plan) -> None:
    """Refuse missing, extra or misshapen tensors by name, before anything is written."""
    rules = plan.lm | plan.vision
    present = set(checkpoint.names())
    missing = sorted(set(rules) - present - plan.optional)
    if missing:
        raise EdgeVqaError(f"the checkpoint lacks {_some(missing)}", "download it again, or use another checkpoint")
    extra = sorted(present - set(rules))
    if extra:
        raise EdgeVqaError(f"the checkpoint holds unknown tensors: {_some(extra)}", "use an original checkpoint")
    for name in sorted(present):
        if checkpoint.shape(name) != rules[name].shape:
            raise EdgeVqaError(
                f"{name} has shape {list(checkpoint.shape(name))}, config.json asks for {list(rules[name].shape)}",
                "use weights and config.json of one checkpoint",
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def lm_entries(checkpoint: Checkpoint, plan: Plan, type_: str | None) -> list[Entry]:
    """The LM's tensors. Matrices are stored as `type_`, or as the checkpoint has them; vectors always as f32."""
    entries, present = [], set(checkpoint.names())
    for name, rule in plan.lm.items():
        if name not in present:
            continue  # tied: llama.cpp uses the embedding
        stored = (type_ or checkpoint.dtype(name).lower()) if len(rule.shape) > 1 else "f32"
        entries.append(Entry(rule.target, rule.shape, stored, _reader(checkpoint, name, rule)))
    for target, values in plan.lm_extra.items():
        entries.append(Entry(target, values.shape, "f32", partial(np.asarray, values)))
    return entries


def vision_entries(checkpoint: Checkpoint, plan: Plan, type_: str) -> list[Entry]:
    """The vision tower's tensors. Matrices as `type_` where their rows fit; the patch convolution f16 unless all is f32."""
    entries = []
    for name, rule in plan.vision.items():
        if rule.target == "v.patch_embd.weight":
            stored = "f32" if type_ == "f32" else "f16"
        elif len(rule.shape) == 1 or rule.target == "v.position_embd.weight":
            stored = "f32"
        else:
            stored = type_ if writer.fits(type_, rule.shape) else "f16"
        entries.append(Entry(rule.target, rule.shape, stored, _reader(checkpoint, name, rule)))
    return entries


def _reader(checkpoint: Checkpoint, name: str, rule: Rule) -> Callable[[], Tensor]:
    def read() -> Tensor:
        values = checkpoint.tensor(name)
        return rule.change(values) if rule.change else values

    return read


def tokenizer_metadata(made: Tokenizer) -> dict[str, Any]:
    roles = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}
    return {
        "tokenizer.ggml.model": made.model,
        "tokenizer.ggml.pre": made.pre,
        "tokenizer.ggml.tokens": made.tokens,
        "tokenizer.ggml.token_type": made.types,
        "tokenizer.ggml.merges": made.merges,
        "tokenizer.ggml.add_bos_token": made.add_bos,
        "tokenizer.chat_template": made.chat_template,
        **{f"tokenizer.ggml.{roles[role]}_token_id": number for role, number in made.special.items()},
    }


def convert(folder: Path, output: Path, options: Options, progress: Progress = lambda step, done, total: None) -> Manifest:
    """Convert a checkpoint folder into a bundle folder, and return its manifest.

    Everything is written beside `output` under a temporary name and renamed at the end. Raises EdgeVqaError.
    """
    method, type_ = parse_quant(options.quant)
    if options.vision_type not in VISION_TYPES:
        raise EdgeVqaError(f"vision type {options.vision_type!r} is unknown", f"use one of {', '.join(VISION_TYPES)}")
    if output.exists() and not options.force:
        raise EdgeVqaError(f"{output} exists already", "choose another folder, or --force to replace it")
    replaceable = (output / bundle.MANIFEST).is_file() or (output.is_dir() and not any(output.iterdir()))
    if output.exists() and not replaceable:
        raise EdgeVqaError(f"{output} is not a bundle, and is not replaced", "choose another folder")
    with Checkpoint(folder) as checkpoint:
        preprocessor = checkpoint.json("preprocessor_config.json", required=False)
        architecture, plan = architectures.plan(checkpoint.config, preprocessor)
        check(checkpoint, plan)
        words = tokenizer.read(checkpoint, plan.vocabulary)
        _check_tokens(words, plan)
        prompt = prompting.render(
            words,
            plan.image_token,
            instruction=options.instruction,
            max_tokens=options.max_tokens,
            detail=options.detail,
        )
        try:
            bundle.check_prompt(prompt)
        except ValueError as error:
            raise EdgeVqaError(str(error), "see edge-vqa-convert --help") from None
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        except OSError as error:
            raise EdgeVqaError(f"{output} cannot be written ({error.strerror})", "choose another folder") from None
        try:
            name = options.name or output.name
            general = {"general.name": name, "general.type": "model"}
            lm, vision = work / "lm.gguf", work / "mmproj.gguf"
            meta = plan.lm_metadata | general | tokenizer_metadata(words)
            if type_ in FLOATS:
                meta["general.file_type"] = _FTYPES[type_]
                _write(lm, meta, lm_entries(checkpoint, plan, type_), "language model", progress)
            else:
                whole = work / "whole.gguf"
                _write(whole, meta, lm_entries(checkpoint, plan, None), "language model", progress)
                progress("quantising", 0, 1)
                rtn.quantise(whole, lm, type_, options.threads)
                progress("quantising", 1, 1)
                whole.unlink()
            meta = {
                "general.architecture": "clip",
                "general.name": name,
                "general.type": "mmproj",
                "general.file_type": _FTYPES[options.vision_type],
                "clip.has_vision_encoder": True,
            } | plan.vision_metadata
            _write(vision, meta, vision_entries(checkpoint, plan, options.vision_type), "vision tower", progress)
            manifest = Manifest(
                schema=bundle.SCHEMA,
                name=name,
                version=options.version,
                licence=options.licence,
                description=options.description or f"{folder.name}, {type_}",
                source=Source(options.source or folder.resolve().name, options.revision),
                architecture=architecture,
                files={role: bundle.describe(work / file) for role, file in (("lm", "lm.gguf"), ("vision", "mmproj.gguf"))},
                quantisation=Quantisation(method, type_, round(writer.bits_per_weight(lm), 4), options.vision_type),
                prompt=prompt,
                runtime=Runtime(native.version(), plan.preprocessing),
            )
            (work / bundle.MANIFEST).write_text(bundle.render(manifest), encoding="utf-8")
            work.chmod(0o755)
            if output.exists():
                shutil.rmtree(output)
            work.rename(output)
        except OSError as error:
            raise EdgeVqaError(
                f"{output} cannot be written ({error.strerror})", "free some space or choose another folder"
            ) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return manifest


def _check_tokens(words: Tokenizer, plan: Plan) -> None:
    known = set(words.tokens)
    # byte-level BPE writes a line break as U+010A
    absent = [token for token in plan.required_tokens if token.replace("\n", "\u010a") not in known]
    if absent:
        raise EdgeVqaError(
            f"the vocabulary lacks {', '.join(map(repr, absent))}, which is written around a picture",
            "use an original checkpoint",
        )


def _write(path: Path, metadata: dict[str, Any], entries: list[Entry], step: str, progress: Progress) -> None:
    total, done = len(entries), 0

    def count(_: int) -> None:
        nonlocal done
        done += 1
        progress(step, done, total)

    writer.write(path, metadata, entries, count)
