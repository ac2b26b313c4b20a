"""What is converted: a checkpoint folder or a gguf pair, read and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from converters import architectures
from converters.architectures import Plan
from converters.files import parts, tokenizer, words
from converters.files.checkpoint import Checkpoint
from converters.files.parts import Half
from converters.files.tokenizer import Tokenizer
from converters.options import Options
from edge_vqa.bundles import gguf_file, ready, store
from edge_vqa.bundles.manifest import MANIFEST, Preprocessing, Prompt
from edge_vqa.bundles.store import Bundle
from edge_vqa.bundles.template import render
from edge_vqa.errors import EdgeVqaError


@dataclass(frozen=True)
class Model:
    """An MLLM ready to be written: both halves, and what the manifest says of it. Of a bundle that sees with ONNX alone,
    `tower` is that graph, which is taken as it is, with its type. key: what tells this source from others and its own past.
    onnx_only: llama.cpp has no graph for the vision tower."""

    architecture: str
    lm: Half
    vision: Half | None
    preprocessing: Preprocessing
    prompt: Prompt
    key: str
    tower: tuple[Path, str] | None = None
    onnx_only: bool = False


@contextlib.contextmanager
def opened(source: Path, options: Options) -> Iterator[Model]:
    """Read and check a checkpoint folder, a bundle, a folder with a gguf pair, or an LM gguf (with `options.mmproj`)."""
    if (source / MANIFEST).is_file() and (bundle := store.read(source)).backend == "onnx":
        yield _from_bundle(bundle)
        return
    if source.suffix == ".gguf" or (source.is_dir() and not (source / "config.json").is_file() and any(source.glob("*.gguf"))):
        yield _from_gguf(*gguf_pair(source, options.mmproj), options)
        return
    with Checkpoint(source) as checkpoint:
        yield _from_checkpoint(checkpoint, options)


def _from_bundle(bundle: Bundle) -> Model:
    """A bundle that sees with ONNX, whose LM is stored in floats."""
    manifest = bundle.manifest
    return Model(
        manifest.architecture,
        parts.from_gguf(bundle.files["lm"]),
        None,
        manifest.runtime.preprocessing,
        manifest.prompt,
        repr(bundle.fingerprint),
        (bundle.files["vision_onnx"], manifest.quantisation.vision_type),
    )


def _key(*paths: Path) -> str:
    """Names, sizes and times of files."""
    return repr([(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths])


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
        several=not options.single,
    )
    text, tower = parts.from_gguf(lm), parts.from_gguf(vision)
    if ready.lost_gelu(headers[1]):
        tower.metadata["clip.use_gelu"] = True
    row_end = ready.lost_row_end(*headers)
    if row_end is not None:
        embeddings = text.tensors["token_embd.weight"]
        width = embeddings.shape[1:]
        tower.tensors[ready.ROW_END] = parts.Part(width, "f32", lambda: embeddings.read()[row_end], embeddings.origin)
        preprocessing = replace(preprocessing, row_ends=1)
    return Model(architecture, text, tower, preprocessing, prompt, _key(lm, vision))


def _from_checkpoint(checkpoint: Checkpoint, options: Options) -> Model:
    preprocessor = checkpoint.json("preprocessor_config.json", required=False)
    architecture, plan = architectures.plan(checkpoint.config, preprocessor)
    checkpoint.rename(plan.renamed)
    parts.check(checkpoint, plan)
    spoken = tokenizer.read(checkpoint, plan.vocabulary, options.chat_template or plan.chat_template)
    _check_tokens(spoken, plan)
    projector = plan.vision_metadata["clip.projector_type"]
    known = projector in ready.PROJECTORS  # to llama.cpp
    around = ready.PROJECTORS[projector][1:] if known else ("<image>", ("", ""))
    prompt = render(
        spoken,
        *around,
        instruction=options.instruction,
        max_tokens=options.max_tokens,
        detail=options.detail,
        several=known and not options.single and projector not in ready.SINGLE,
    )
    lm, vision = parts.from_checkpoint(checkpoint, plan, tokenizer.metadata(spoken))
    if plan.reads_question:
        vision.metadata["clip.qformer.vocabulary"] = words.read(checkpoint)
    key = _key(*sorted(checkpoint.folder.glob("*.safetensors")))
    return Model(architecture, lm, vision, plan.preprocessing, prompt, key, onnx_only=not known)


def _check_tokens(spoken: Tokenizer, plan: Plan) -> None:
    known = set(spoken.tokens)
    # byte-level BPE writes a line break as U+010A
    absent = [token for token in plan.required_tokens if token.replace("\n", "\u010a") not in known]
    if absent:
        raise EdgeVqaError(
            f"the vocabulary lacks {', '.join(map(repr, absent))}, which is written around a picture",
            "use an original checkpoint",
        )
