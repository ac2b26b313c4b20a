"""Between eyes and language: what the eyes' features become in the LM's own space.

69 image tokens. Of the four likeliest ImageNet classes and of the three likeliest kinds of our own head five vectors each,
scaled by the root of the probability: they begin as the LM's embeddings of what people call the thing (two) and of its
narrow name (three). Of the two likeliest colours of the middle one vector each. And 32 cells, two patches of the mini's
tower each, through two layers, which begin by telling what is drawn there (`align`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recipes.base.eyes import PATCHES, STATE

SEEN, OWN, COLOURS, CELLS = 4, 3, 2, PATCHES // 2  # likeliest classes, own kinds, colours; cells
NAME, NARROW = 2, 3  # vectors of a name, of a narrow name
TOKENS = (NAME + NARROW) * (SEEN + OWN) + COLOURS + CELLS
HIDDEN = 1024


def vectors_of(name: str, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast, count: int) -> Tensor:
    """The embeddings of a name's tokens [count, n_embd]: a short name's last one again, a long name's rest as their mean."""
    found = embeddings[tokenizer(" " + name, add_special_tokens=False).input_ids]
    if len(found) > count:
        return torch.cat([found[: count - 1], found[count - 1 :].mean(0, keepdim=True)])
    return torch.cat([found, found[-1:].expand(count - len(found), -1)])


def named(names: Sequence[tuple[str, str]], embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """(name, narrow name) of each class -> vectors [classes, NAME + NARROW, n_embd]."""
    made = [
        torch.cat([vectors_of(name, embeddings, tokenizer, NAME), vectors_of(narrow or name, embeddings, tokenizer, NARROW)])
        for name, narrow in names
    ]
    return torch.stack(made)


class Slots(nn.Module):
    """Probabilities [n, classes] -> the likeliest classes as vectors [n, vectors * count, n_embd]."""

    def __init__(self, count: int, table: Tensor) -> None:
        """table: [classes, vectors, n_embd], as it begins."""
        super().__init__()
        self.count, self.table = count, nn.Parameter(table.clone())

    def forward(self, probabilities: Tensor) -> Tensor:
        values, places = probabilities.topk(self.count)
        return (self.table[places] * values.sqrt()[..., None, None]).flatten(1, 2)


class Connector(nn.Module):
    """seen, own, colours: the tables of the three sorts of slots, as they begin."""

    def __init__(self, seen: Tensor, own: Tensor, colours: Tensor) -> None:
        super().__init__()
        self.seen, self.own, self.colours = Slots(SEEN, seen), Slots(OWN, own), Slots(COLOURS, colours)
        self.cells = nn.Sequential(
            nn.LayerNorm(2 * STATE), nn.Linear(2 * STATE, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, seen.shape[-1])
        )

    def forward(self, seen: Tensor, own: Tensor, colours: Tensor, states: Tensor) -> Tensor:
        """seen [n, classes], own [n, kinds], colours [n, colours]: probabilities; states [n, PATCHES, STATE]. Image tokens
        [n, TOKENS, n_embd]."""
        cells = self.cells(states.reshape(-1, CELLS, 2 * STATE))
        return torch.cat([self.seen(seen), self.own(own), self.colours(colours), cells], 1)


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
