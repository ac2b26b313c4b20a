"""Between eyes and language: what a photo's features become in the LM's own space.

34 image tokens: of the five likeliest ImageNet classes three vectors each, of the three likeliest own kinds (what the shops'
photos taught, and "other") three vectors each, all scaled by the root of the probability; and ten pooled places through two
layers.
A slot's vectors begin as the LM's embeddings of the words of its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recipes.base.eyes import WIDTH

VECTORS, SEEN, OWN, PLACES = 3, 5, 3, 10
TOKENS = VECTORS * (SEEN + OWN) + PLACES


class Slots(nn.Module):
    """Probabilities [n, classes] -> the likeliest classes as vectors [n, VECTORS * count, n_embd]."""

    def __init__(self, names: Sequence[str], count: int, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.count = count
        self.table = nn.Parameter(torch.stack([self._begin(name, embeddings, tokenizer) for name in names]))

    @staticmethod
    def _begin(name: str, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
        ids = tokenizer(" " + name, add_special_tokens=False).input_ids[:VECTORS]
        return embeddings[ids + ids[-1:] * (VECTORS - len(ids))]

    def forward(self, probabilities: Tensor) -> Tensor:
        values, places = probabilities.topk(self.count)
        return (self.table[places] * values.sqrt()[..., None, None]).flatten(1, 2)


class Connector(nn.Module):
    def __init__(self, seen: Sequence[str], own: Sequence[str], embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        width = embeddings.shape[1]
        self.seen = Slots(seen, SEEN, embeddings, tokenizer)
        self.own = Slots(own, OWN, embeddings, tokenizer)
        self.places = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 768), nn.GELU(), nn.Linear(768, width))
        self.gain = nn.Parameter(torch.tensor(float(embeddings.std())))

    def forward(self, seen: Tensor, own: Tensor, places: Tensor, shown: Tensor) -> Tensor:
        """seen [n, classes], own [n, kinds]: probabilities; places [n, PLACES, WIDTH]; shown [n]: 0 where only the classes are
        known, as no photo is. Image tokens [n, TOKENS, n_embd]."""
        spatial = self.places(places) * self.gain * shown[:, None, None]
        return torch.cat([self.seen(seen), self.own(own), spatial], 1)
