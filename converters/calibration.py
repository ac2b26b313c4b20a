"""Calibration: runs questions through the float LM, layer by layer, and hands what it sees to MBQ.

Pictures go through the bundle's own vision tower and prompt, so the LM sees here what it will see on the device. One layer
is in memory at a time, whatever the size of the LM.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from converters import ggml
from converters.files import writer
from converters.files.parts import Half, Kept
from converters.files.writer import Entry
from converters.ggml import Floats
from converters.method import Method, coder_of, lm_types
from converters.options import Options, Progress
from converters.quantisers import mbq, mbq_t5
from converters.quantisers.mbq import Sample
from converters.source import Model
from edge_vqa.llm.engine import Engine, cells_of
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.pictures.open import open_picture
from edge_vqa.vision.tokens import ImageTokens, Part
from edge_vqa.work import questions as files
from edge_vqa.work.questions import Question

MOST_QUESTIONS = 128  # as in the paper
MOST_TOKENS = 16384  # of all questions: what a layer of an 8B model sees then fits beside it in 16 GB


def apply(
    model: Model, method: Method, vision: Path, backend: str, options: Options, progress: Progress
) -> tuple[Half, dict[str, Floats]]:
    """The LM with MBQ's scales folded in, and the importance of channels, by gguf name; each only if `method` wants it."""
    assert options.calibration is not None
    asked = files.read(options.calibration, labelled=True)[:MOST_QUESTIONS]
    samples = collect(model, vision, backend, asked, options.threads, lambda done: progress("calibration", done, len(asked)))
    types = lm_types(model.lm, method.type)

    def rounded(name: str, values: Floats) -> Floats:
        """A tensor after a round trip through the quantiser that will be used."""
        return ggml.dequantise(coder_of(method, types[name], options.threads)(values), types[name])

    search = mbq_t5.calibrate if model.lm.metadata["general.architecture"] == "t5" else mbq.calibrate
    return search(
        model.lm,
        samples,
        rounded if method.equalise else None,
        importance=method.importance,
        progress=progress,
    )


def collect(
    model: Model,
    vision: Path,
    backend: str,
    asked: list[Question],
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Embed pictures, prompts and answers. The tokenizer and the tower run in llama.cpp, on a stub of the LM."""
    with TemporaryDirectory(dir=vision.parent) as folder:
        stub = Path(folder) / "stub.gguf"
        _write_stub(stub, model.lm, threads)
        engine = Engine(stub, vision, model.preprocessing, backend=backend, context=64, threads=threads)
        try:
            table = _Embeddings(model.lm, engine.lm.n_embd_in)
            made: list[Sample] = []
            for number, question in enumerate(asked, 1):
                made.append(_sample(model, engine, table, question))
                progress(number)
                if sum(len(sample.vision) for sample in made) >= MOST_TOKENS:
                    progress(len(asked))
                    break
            return made
        finally:
            engine.close()


def _write_stub(path: Path, lm: Half, threads: int) -> None:
    kind = lm.metadata["general.architecture"]
    count = lm.metadata[f"{kind}.block_count"]
    layers = 1 + (lm.value(f"{kind}.n_deepstack_layers") or 0)  # one that no features of the tower are for
    entries = []
    for name, part in lm.tensors.items():
        block = re.match(r"(?:(?:enc|dec)\.)?blk\.(\d+)\.", name)
        if block is None or int(block[1]) < layers:
            type_ = "f32" if len(part.shape) < 2 else "q8_0" if ggml.fits("q8_0", part.shape) else "f16"
            entries.append(Entry(name, part.shape, type_, part.read, part.origin, writer.rounding(type_, threads)))
    few = replace(count, value=layers) if hasattr(count, "value") else layers
    told = {key: _cut(value, lm.number("block_count"), layers) for key, value in lm.metadata.items() if key.startswith(kind)}
    counts = {key: few for key in (f"{kind}.block_count", f"{kind}.decoder_block_count") if key in lm.metadata}
    writer.write(path, lm.metadata | told | counts, entries, lambda _: None)


def _cut(value: Any, layers: int, few: int) -> Any:
    """A value of the metadata that is a list of one for each layer, for so few."""
    listed = value.value if isinstance(value, Kept) else value
    if not isinstance(listed, list) or len(listed) != layers:
        return value
    return replace(value, value=listed[:few]) if isinstance(value, Kept) else listed[:few]


class _Embeddings:
    """The embedding table, float16 to keep it small; its rows are padded to the width of a picture's embeddings."""

    def __init__(self, lm: Half, width: int) -> None:
        self._table, self._width = lm.tensors["token_embd.weight"].read().astype(np.float16), width
        self._scale = lm.number("embedding_length") ** 0.5 if lm.metadata["general.architecture"] == "gemma3" else 1.0

    def __call__(self, tokens: list[int]) -> Floats:
        rows = self._table[tokens].astype(np.float32) * np.float32(self._scale)
        return np.pad(rows, ((0, 0), (0, self._width - rows.shape[1])))


def positions_of(part: Part, place: int) -> tuple[npt.NDArray[np.signedinteger[Any]], int]:
    """Positions [4, n] of a part that begins at `place`, and where the next begins: an image of M-RoPE takes fewer positions
    than tokens."""
    plain = np.tile(np.arange(cells_of(part)), (4, 1))
    if isinstance(part, ImageTokens):
        return place + (plain if part.positions is None else part.positions), place + part.n_positions
    return place + plain, place + len(part)


def _sample(model: Model, engine: Engine, table: _Embeddings, question: Question) -> Sample:
    prompt = model.prompt
    asked = question_pieces(question.question, prompt)
    pieces = picture_pieces(open_picture(question.image), prompt.detail, prompt, model.preprocessing)
    shown = engine.read(engine.embed(pieces), asked)
    # an answer follows "Assistant:" with a space, and a line break without one
    lead = "" if (prompt.question.partition("{question}")[2] + prompt.after)[-1:].isspace() else " "
    targets = engine.lm.tokenize(lead + max(question.answers, key=question.answers.count), special=False)
    targets += engine.lm.tokenize(prompt.stop[0], special=True) if prompt.stop else []
    embeddings, positions, vision = [], [], []
    place = 0
    encodes = engine.lm.encodes  # its answer is the decoder's, which begins with a token of its own
    for part in (*shown, engine.tokens(asked), *([] if encodes else [targets[:-1]])):
        embeddings.append(part.embeddings if isinstance(part, ImageTokens) else table(part))
        own, place = positions_of(part, place)
        positions.append(own)
        vision.append(np.full(cells_of(part), isinstance(part, ImageTokens)))
    seen = np.concatenate(vision)
    answer = np.zeros(len(seen), bool)
    answer[-len(targets) :] = not encodes
    joined = np.concatenate(positions, 1).astype(np.float32)
    decoded = table([engine.lm.start, *targets[:-1]]) if encodes else None
    return Sample(np.concatenate(embeddings).astype(np.float32), joined, seen, answer, targets, decoded)
