"""Pairs that llama.cpp's own converter makes of small random checkpoints whose architectures we do not convert ourselves.

    python -m tests.converters.pairs LLAMA_CPP [KIND ...] [--write]

LLAMA_CPP as for `upstream`. For each architecture it prints the row of the bench for a float pair, and with --write stores the
pair in half precision, with what `transformers` makes of it, in tests/data/pairs/, and the rows in docs/models.md.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import Piece, Text, Tile, picture_pieces, question_pieces
from edge_vqa.pictures.open import Picture, Rgb
from edge_vqa.trust.trace import Trace
from tests.converters import bench
from tests.converters.pair_checkpoints import PAIRS, make
from tests.converters.reference import Compared, Reference
from tests.converters.upstream import as_it_wants, convert_upstream

STORED = Path(__file__).parent.parent / "data" / "pairs"


class PairReference(Reference):
    """The checkpoint that a pair was made of, in `transformers`."""

    def __init__(self, kind: str, checkpoint: Path, bundle: Bundle) -> None:
        super().__init__(checkpoint, bundle)
        self.pair = PAIRS[kind]
        self.marked = "mm_token_type_ids" if self.pair.typed else ""
        self.template = (checkpoint / "chat_template.jinja").read_text()
        self.config = json.loads((checkpoint / "tokenizer_config.json").read_text())

    def inputs(self, tiles: list[Rgb]) -> dict[str, Any]:
        (value,) = (torch.from_numpy(tile.copy()).permute(2, 0, 1).float() / 255 for tile in tiles)
        return self.pair.values(((value - self.mean) / self.std).half().float())

    def ids(self, pieces: list[Piece]) -> list[int]:
        """What `transformers` makes of the question by chat template and processor, our own prompt aside."""
        (tile,) = (piece.rgb for piece in pieces if isinstance(piece, Tile))
        asked = "".join(piece.text for piece in pieces if isinstance(piece, Text) and not piece.special)
        prompt = self.bundle.manifest.prompt
        lead, tail = prompt.question.split("{question}")
        content = [{"type": "image"}, {"type": "text", "text": asked[len(lead) : len(asked) - len(tail)]}]
        tokenizer = self.tokenizer
        if self.config.get("bos_token"):
            tokenizer.bos_token = self.config["bos_token"]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        rows, columns = (side // (self.pair.unit or self.pixels.tile) for side in tile.shape[:2])
        text = text.replace(self.pair.mark, self.pair.expanded(rows, columns))
        encoded: list[int] = tokenizer.encode(text, add_special_tokens=False)
        parts = list(self.engine.embed(pieces))
        ours = [token for part in parts for token in (part if isinstance(part, list) else [-1] * len(part.embeddings))]
        first, embedded = encoded.index(tokenizer.convert_tokens_to_ids(self.pair.token)), ours.count(-1)
        assert ours == [*encoded[:first], *[-1] * embedded, *encoded[first + embedded :]], "another prompt"
        return encoded


def refer(kind: str, llama_cpp: Path, folder: Path) -> Kept:
    """A float pair that llama.cpp's converter makes, converted here to float32, beside `transformers`."""
    checkpoint, pair = make(folder / "checkpoint", kind), PAIRS[kind]
    wanted = folder / "wanted"
    wanted.mkdir()
    for path in checkpoint.iterdir():
        (wanted / path.name).write_bytes(path.read_bytes())
    as_it_wants(wanted, dict(pair.classes), pair.renamed)
    convert_upstream(llama_cpp, wanted, folder / "pair", "qwen2", "f16", pair.flags)
    convert(folder / "pair", folder / "bundle", bench.EXACT)
    bundle = store.read(folder / "bundle")
    return Kept(PairReference(kind, checkpoint, bundle))


class Kept:
    """What a reference said, for a pair that is kept: a zip of both files in half precision, and expected.npz with logits
    [questions, n_vocab] and answers [questions, tokens], -1 behind their ends, in the order of the bench."""

    def __init__(self, reference: PairReference) -> None:
        self._reference = reference
        self.bundle = reference.bundle
        self._logits: list[Any] = []
        self._answers: list[list[int]] = []

    def compare(self, picture: Picture, question: str, detail: str) -> Compared:
        made = self._reference.compare(picture, question, detail)
        self._logits.append(made.theirs)
        self._answers.append([token.id for token in made.trace.tokens])
        return made

    def close(self) -> None:
        self._reference.close()

    def write(self, kind: str, pair: Path) -> None:
        answers = np.full((len(self._answers), max(map(len, self._answers))), -1, np.int32)
        for row, answer in zip(answers, self._answers, strict=True):
            row[: len(answer)] = answer
        STORED.mkdir(parents=True, exist_ok=True)
        expected = io.BytesIO()
        np.savez_compressed(expected, logits=np.stack(self._logits), answers=answers)
        with zipfile.ZipFile(STORED / f"{kind}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as stream:
            for name in ("lm.gguf", "mmproj.gguf"):
                stream.write(pair / name, name)
            stream.writestr("expected.npz", expected.getvalue())


class Stored:
    """A reference from a kept pair, in the order of the bench."""

    def __init__(self, kind: str, folder: Path, options: Options = bench.EXACT) -> None:
        with zipfile.ZipFile(STORED / f"{kind}.zip") as stream:
            for name in ("lm.gguf", "mmproj.gguf"):
                stream.extract(name, folder / "pair")
            expected = np.load(io.BytesIO(stream.read("expected.npz")))
        convert(folder / "pair", folder / "bundle", options)
        self.bundle = store.read(folder / "bundle")
        self._expected = zip(expected["logits"], expected["answers"], strict=True)
        tower, pixels = self.bundle.files["vision"], self.bundle.manifest.runtime.preprocessing
        self._engine = Engine(self.bundle.files["lm"], tower, pixels, kv_type="f32")

    def compare(self, picture: Picture, question: str, detail: str) -> Compared:
        engine, prompt, pixels = self._engine, self.bundle.manifest.prompt, self.bundle.manifest.runtime.preprocessing
        engine.open_prefix(engine.embed(picture_pieces(picture, detail, prompt, pixels)))
        asked = question_pieces(question, prompt)
        ours = engine.lm.step([engine._ask(asked, 1).due])[0][0].copy()
        *_, trace = engine.answer(asked, 8)
        assert isinstance(trace, Trace)
        logits, answer = next(self._expected)
        return Compared(ours, logits, trace, [token.id for token in trace.tokens] == [int(t) for t in answer if t >= 0], 0.0)

    def close(self) -> None:
        self._engine.close()


def main() -> None:
    rows, write = [], "--write" in sys.argv
    for kind in [name for name in sys.argv[2:] if name != "--write"] or PAIRS:
        with tempfile.TemporaryDirectory() as name:
            reference = refer(kind, Path(sys.argv[1]), Path(name))
            rows.append(bench.compare(kind, reference.bundle, reference, PAIRS[kind].sizes or bench.SHAPES))
            print(f"{kind}: {'as it should' if rows[-1].fine else 'NOT as it should'}", flush=True)
            if write:
                reference.write(kind, Path(name) / "pair")
    print(bench.table(rows))
    if write:
        bench.put(rows, "pairs")


if __name__ == "__main__":
    main()
