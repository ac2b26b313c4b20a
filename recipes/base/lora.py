"""Low-rank adapters (Hu et al., ICLR 2022, equation 3) on rounded weights: what is learned is small, and learned on the weights
that ship.

Every so often (`settle`) the weights in use become round(W + BA) - BA, so that with the adapter they are exactly what a bundle
of that type holds, and gradients flow through BA alone: training sees the rounding and works around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaForCausalLM

RANK = 48
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Adapted(nn.Module):
    """y = x W' + x A' B', of which A [rank, in] and B [out, rank] learn; at first B is nought. W in use is bfloat16."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.original = base.weight.detach().clone()  # float32, not moved: no parameter
        self.weight = nn.Parameter(self.original.bfloat16(), requires_grad=False)
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if torch.is_autocast_enabled("cpu") else self.weight.to(x.dtype)
        return linear(x, weight) + linear(linear(x, self.a), self.b)

    @torch.no_grad()
    def whole(self) -> Tensor:
        return self.original + self.b @ self.a


def adapted(lm: LlamaForCausalLM) -> Iterator[tuple[nn.Module, str, Adapted]]:
    """(owner, name, adapter) of every adapted matrix."""
    for layer in lm.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name in LINEARS:
                if isinstance(found := getattr(owner, name, None), Adapted):
                    yield owner, name, found


def adapt(lm: LlamaForCausalLM, rank: int = RANK) -> LlamaForCausalLM:
    """Put an adapter on every matrix of every layer; nothing else learns."""
    lm.requires_grad_(False)
    for layer in lm.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name in LINEARS:
                if hasattr(owner, name):
                    setattr(owner, name, Adapted(getattr(owner, name), rank))
    return lm


@torch.no_grad()
def settle(lm: LlamaForCausalLM, rounded: Callable[[Tensor], Tensor]) -> None:
    """Take the rounding of what has been learned into the weights in use."""
    for _, _, one in adapted(lm):
        one.weight.copy_(rounded(one.whole()) - one.b @ one.a)


@torch.no_grad()
def merge(lm: LlamaForCausalLM) -> LlamaForCausalLM:
    """The adapters added into the weights, float32, not rounded: a plain LM again."""
    for owner, name, one in list(adapted(lm)):
        plain = nn.Linear(one.original.shape[1], one.original.shape[0], bias=False)
        plain.weight.copy_(one.whole())
        setattr(owner, name, plain)
    return lm
