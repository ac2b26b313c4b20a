"""The same prompt and the same pixels in llama.cpp and in `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from edge_vqa.bundle import Bundle
from edge_vqa.engine import Engine
from edge_vqa.picture import Picture
from edge_vqa.prompt import Piece, Text, Tile, picture_pieces, question_pieces
from edge_vqa.trace import Trace


@dataclass(frozen=True, eq=False)
class Compared:
    """First-token logits of both, the engine's trace, and whether `transformers` would have chosen the same tokens."""

    ours: npt.NDArray[np.float32]
    theirs: npt.NDArray[np.float32]
    trace: Trace
    same_tokens: bool
    hidden_error: float

    @property
    def error(self) -> float:
        """Largest difference of a first-token logit, as a share of their range."""
        return float(np.abs(self.ours - self.theirs).max() / np.ptp(self.theirs))


class Reference:
    """A checkpoint in `transformers`, fp32, beside an f32 bundle of it with an f32 KV cache."""

    def __init__(self, checkpoint: Path, bundle: Bundle) -> None:
        self.net = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.bundle = bundle
        self.pixels = bundle.manifest.runtime.preprocessing
        self.engine = Engine(bundle.files["lm"], bundle.files["vision"], self.pixels, kv_type="f32")

    def close(self) -> None:
        self.engine.close()

    def compare(self, picture: Picture, question: str, detail: str) -> Compared:
        prompt = self.bundle.manifest.prompt
        prefix = picture_pieces(picture, detail, prompt, self.pixels)
        asked = question_pieces(question, prompt)
        engine = self.engine
        engine.open_prefix(prefix)
        list(engine.answer(asked, 1))
        row = engine._llama.llama_get_logits_ith(engine._context, -1)
        ours = np.ctypeslib.as_array(row, (engine.n_vocab,)).copy()
        *_, trace = engine.answer(asked, 8)
        assert isinstance(trace, Trace)
        ids = self.ids([*prefix, *asked])
        answer = [token.id for token in trace.tokens]
        tiles = np.stack([piece.rgb for piece in prefix if isinstance(piece, Tile)])
        # llama.cpp's patch convolution takes float16 pixels
        values = ((torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).half().float()[None]
        with torch.no_grad():
            out = self.net(input_ids=torch.tensor([ids + answer[:-1]]), pixel_values=values, output_hidden_states=True)
        logits = out.logits[0, len(ids) - 1 :].numpy()
        hidden = out.hidden_states[-1][0, len(ids) - 1].numpy()
        return Compared(
            ours=ours,
            theirs=logits[0],
            trace=trace,
            same_tokens=logits.argmax(1).tolist() == answer,
            hidden_error=float(np.abs(hidden - trace.first_hidden).max() / np.abs(hidden).max()),
        )

    def ids(self, pieces: list[Piece]) -> list[int]:
        """`transformers`' own tokenisation of the whole prompt, image tokens spelled out."""
        tiles = "<image>" * self.pixels.tile_tokens
        text = "".join(piece.text if isinstance(piece, Text) else tiles for piece in pieces)
        encoded: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return encoded
