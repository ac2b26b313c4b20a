"""The same prompt and the same pixels in llama.cpp and in `transformers`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from edge_vqa.bundles.manifest import BACKENDS
from edge_vqa.bundles.store import Bundle
from edge_vqa.llm.engine import Engine
from edge_vqa.llm.prompt import Piece, Text, Tile, picture_pieces, question_pieces
from edge_vqa.pictures.open import Picture, Rgb
from edge_vqa.trust.trace import Trace

IMAGE_TOKENS = dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|image_pad|>") | {
    **{"gemma3": "<image_soft_token>", "internvl": "<IMG_CONTEXT>"}
}

BLIP = ("blip_2", "instructblip")


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

    def __init__(self, checkpoint: Path, bundle: Bundle, backend: str | None = None) -> None:
        self.net = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"))
        processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
        self.mean = torch.tensor(processor["image_mean"]).reshape(3, 1, 1)
        self.std = torch.tensor(processor["image_std"]).reshape(3, 1, 1)
        self.words: Any = None  # of a Q-Former that reads the question
        if (checkpoint / "qformer_tokenizer").is_dir():
            self.words = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "qformer_tokenizer" / "tokenizer.json"))
        self.bundle = bundle
        self.pixels = bundle.manifest.runtime.preprocessing
        kind = bundle.manifest.architecture
        # whether the net is told which tokens are a picture's. Gemma 3: they see each other; others: for their positions
        self.marked = {"gemma3": "token_type_ids"}.get(kind, "mm_token_type_ids" if kind.startswith("qwen") else "")
        self.backend = backend = backend or bundle.backend
        tower = bundle.files[BACKENDS[backend]]
        self.engine = Engine(bundle.files["lm"], tower, self.pixels, backend=backend, kv_type="f32")

    def close(self) -> None:
        self.engine.close()

    def compare(self, picture: Picture, question: str, detail: str) -> Compared:
        prompt = self.bundle.manifest.prompt
        prefix = picture_pieces(picture, detail, prompt, self.pixels)
        asked = question_pieces(question, prompt)
        engine = self.engine
        engine.open_prefix(engine.embed(prefix))
        ours = engine.lm.step([engine._ask(asked, 1).due])[0][0].copy()
        *_, trace = engine.answer(asked, 8)
        assert isinstance(trace, Trace)
        ids = self.ids([*prefix, *asked])
        answer = [token.id for token in trace.tokens]
        inputs = self.inputs([piece.rgb for piece in prefix if isinstance(piece, Tile)])
        tokens = torch.tensor([ids + answer[:-1]])
        kind = self.bundle.manifest.architecture
        if self.marked:
            inputs[self.marked] = (tokens == self.net.config.image_token_id).long()
        if self.words is not None:
            inputs["qformer_input_ids"] = torch.tensor([self.words.encode("".join(p.text for p in asked if not p.special))])
        encoded = self.engine.lm.encodes
        if encoded:
            tokens = torch.tensor([ids])
            inputs["decoder_input_ids"] = torch.tensor([[0, *answer[:-1]]])
        with torch.no_grad():
            out = self.net(input_ids=tokens, output_hidden_states=True, **inputs)
        first = 0 if encoded else len(ids) - 1
        logits = out.logits[0, first:].numpy()
        states = out.language_model_outputs if kind in BLIP else out
        hidden = (states.decoder_hidden_states if encoded else states.hidden_states)[-1][0, first].numpy()
        return Compared(
            ours=ours,
            theirs=logits[0],
            trace=trace,
            same_tokens=logits.argmax(1).tolist() == answer,
            hidden_error=float(np.abs(hidden - trace.first_hidden).max() / np.abs(hidden).max()),
        )

    def inputs(self, tiles: list[Rgb]) -> dict[str, Any]:
        """What `transformers`' processors make of these very pixels."""
        # llama.cpp's patch convolution takes float16 pixels
        scaled = [torch.from_numpy(tile.copy()).permute(2, 0, 1).float() / 255 for tile in tiles]
        values = [(tile - self.mean) / self.std for tile in scaled]  # [3, h, w]
        values = [value.half().float() if self.backend == "mtmd" else value for value in values]
        if self.bundle.manifest.architecture in ("gemma3", "internvl", "llava", *BLIP):
            return {"pixel_values": torch.stack(values)}
        if self.bundle.manifest.architecture == "lfm2_vl":  # patches in rows, colours last; pictures of one size
            n, patch, stacked = len(values), self.pixels.tile // 2, torch.stack(values)
            rows, columns = stacked.shape[2] // patch, stacked.shape[3] // patch
            flat = stacked.reshape(n, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)
            seen = {"pixel_attention_mask": torch.ones(n, rows * columns, dtype=torch.long)}
            return {"pixel_values": flat, "spatial_shapes": torch.tensor([[rows, columns]] * n), **seen}
        if self.bundle.manifest.architecture not in IMAGE_TOKENS:
            return {"pixel_values": torch.stack(values)[None]}
        flats, grids = zip(*(self._flat(value) for value in values), strict=True)
        return {"pixel_values": torch.cat(flats), "image_grid_thw": torch.tensor(grids)}

    def _flat(self, value: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """A picture as Qwen-VL's processors write it, and its grid."""
        patch, merge = self.pixels.tile // 2, 2
        rows, columns = value.shape[1] // patch, value.shape[2] // patch
        # [frame, 3, rows / 2, 2, side, columns / 2, 2, side] -> a row of 3 * 2 * side * side a patch, 2 x 2 neighbours together
        cut = value.expand(2, 3, -1, -1).reshape(2, 3, rows // merge, merge, patch, columns // merge, merge, patch)
        flat = cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)
        return flat, [1, rows, columns]

    def ids(self, pieces: list[Piece]) -> list[int]:
        """`transformers`' own tokenisation of the whole prompt, image tokens spelled out."""
        # others write <image>
        token, text = IMAGE_TOKENS.get(self.bundle.manifest.architecture, "<image>"), ""
        for piece in pieces:
            if isinstance(piece, Text):
                text += piece.text
            else:
                height, width, _ = piece.rgb.shape
                dynamic = self.pixels.method == "dynamic"
                side = self.pixels.tile
                text += token * ((height // side) * (width // side) if dynamic else self.pixels.tile_tokens)
        encoded: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return encoded
