"""Low-rank adapters (Hu et al., ICLR 2022, equation 3): the published weights stay as they are, what is learned is small."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaForCausalLM

RANK = 32
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Adapted(nn.Module):
    """y = x W' + x A' B', of which A [rank, in] and B [out, rank] learn; at first B is nought."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight) + linear(linear(x, self.a), self.b)


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
def merge(lm: LlamaForCausalLM) -> LlamaForCausalLM:
    """The adapters added into the weights: a plain LM again."""
    for layer in lm.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name in LINEARS:
                if isinstance(adapted := getattr(owner, name, None), Adapted):
                    plain = nn.Linear(adapted.weight.shape[1], adapted.weight.shape[0], bias=False)
                    plain.weight.copy_(adapted.weight + adapted.b @ adapted.a)
                    setattr(owner, name, plain)
    return lm
