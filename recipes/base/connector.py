"""Between eyes and language: what the eyes' features become in the LM's own space.

60 image tokens. Of the four likeliest ImageNet classes and of the three likeliest kinds of our own head four vectors each, scaled
by the root of the probability; a slot's vectors begin as the LM's embeddings of the words of its name. And 32 cells, two patches
of the mini's tower each, through two layers, which begin by telling what is drawn there (`align`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recipes.base.eyes import PATCHES, STATE

VECTORS, SEEN, OWN, CELLS = 4, 4, 3, PATCHES // 2
TOKENS = VECTORS * (SEEN + OWN) + CELLS
HIDDEN = 1024


def vectors_of(name: str, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast, count: int = VECTORS) -> Tensor:
    """The embeddings of a name's tokens [count, n_embd]: a short name's last one again, a long name's rest as their mean."""
    found = embeddings[tokenizer(" " + name, add_special_tokens=False).input_ids]
    if len(found) > count:
        return torch.cat([found[: count - 1], found[count - 1 :].mean(0, keepdim=True)])
    return torch.cat([found, found[-1:].expand(count - len(found), -1)])


class Slots(nn.Module):
    """Probabilities [n, classes] -> the likeliest classes as vectors [n, VECTORS * count, n_embd]."""

    def __init__(self, names: Sequence[str], count: int, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.count = count
        self.table = nn.Parameter(torch.stack([vectors_of(name, embeddings, tokenizer) for name in names]))

    def forward(self, probabilities: Tensor) -> Tensor:
        values, places = probabilities.topk(self.count)
        return (self.table[places] * values.sqrt()[..., None, None]).flatten(1, 2)


class Connector(nn.Module):
    def __init__(self, seen: Sequence[str], own: Sequence[str], embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.seen = Slots(seen, SEEN, embeddings, tokenizer)
        self.own = Slots(own, OWN, embeddings, tokenizer)
        self.cells = nn.Sequential(
            nn.LayerNorm(2 * STATE), nn.Linear(2 * STATE, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, embeddings.shape[1])
        )

    def forward(self, seen: Tensor, own: Tensor, states: Tensor) -> Tensor:
        """seen [n, classes], own [n, kinds]: probabilities; states [n, PATCHES, STATE]. Image tokens [n, TOKENS, n_embd]."""
        return torch.cat([self.seen(seen), self.own(own), self.cells(states.reshape(-1, CELLS, 2 * STATE))], 1)


def align(connector: Connector, states: Tensor, targets: Tensor, steps: int = 2500, batch: int = 96) -> float:
    """The cells learn to give the mean embedding of what is drawn there. states [n, PATCHES, STATE] (any float), targets
    [n, CELLS, n_embd], nought where there is nothing. Returns the share of the targets' variance that is explained."""
    optimiser = torch.optim.AdamW(connector.cells.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    scale, explained = targets.float().square().mean(), 0.0
    for _ in range(steps):
        rows = torch.randint(len(states), (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            made = connector.cells(states[rows].float().reshape(-1, CELLS, 2 * STATE))
        loss = (made.float() - targets[rows].float()).square().mean() / scale
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        explained = 0.99 * explained + 0.01 * (1 - loss.item())
    return explained
