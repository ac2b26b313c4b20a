"""What the recipe of the base model rests on: a rotation that changes no answer, adapters that vanish into weights, packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from converters import ggml
from converters.files import writer
from recipes.base import language, lora
from recipes.base.packing import IGNORE, Packer
from tests.conftest import CHECKPOINT

IDS = torch.arange(24).view(2, 12) * 7 % 96


def rounded(values: torch.Tensor, kind: str) -> torch.Tensor:
    blocks = writer.rounding(kind, 1, None)(np.ascontiguousarray(values.detach().numpy()))
    return torch.from_numpy(ggml.dequantise(blocks, kind).reshape(values.shape).copy())


@pytest.fixture
def lm() -> LlamaForCausalLM:
    """A small LM whose matrices lie on the grid of Q4_1 and whose norms have gains, as those of a published file do."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=96, num_key_value_heads=2, tie_word_embeddings=True, **shape)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 2:
                parameter.copy_(rounded(parameter * 5, "q4_1"))
            elif "norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return made


@torch.inference_mode()
def logits(lm: LlamaForCausalLM) -> torch.Tensor:
    return lm(IDS).logits


def kept(matrix: torch.Tensor, kind: str = "q4_1") -> float:
    """Which share of a small change is still there after rounding."""
    change = 0.02 * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
    moved = rounded(matrix + change, kind) - rounded(matrix, kind)
    return float((moved * change).sum() / change.square().sum())


def test_a_rotation_leaves_every_logit_and_takes_the_weights_off_their_grid(lm: LlamaForCausalLM) -> None:
    before = logits(lm)
    matrices = [layer.mlp.up_proj.weight.detach().clone() for layer in lm.model.layers]
    language.rotate(lm)
    assert (logits(lm) - before).abs().max() < 1e-4 * (before.max() - before.min())
    for layer, matrix in zip(lm.model.layers, matrices, strict=True):
        assert kept(matrix) < 0.3, "rounding to the grid that they came from erases a small change"
        for linear in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            assert 0.7 < kept(linear.weight.detach()) < 1.3


def test_adapters_begin_with_nothing_and_vanish_into_the_weights(lm: LlamaForCausalLM) -> None:
    before = logits(lm)
    lora.adapt(lm, rank=4)
    assert torch.equal(logits(lm), before)
    learning = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 7 * len(lm.model.layers)
    with torch.no_grad():
        for parameter in learning:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    learned = logits(lm)
    assert not torch.allclose(learned, before, atol=1e-3)
    merged = logits(lora.merge(lm))
    assert (merged - learned).abs().max() < 1e-4 * (before.max() - before.min())
    assert not any(isinstance(module, lora.Adapted) for module in lm.modules())


def test_packed_questions_see_the_picture_and_themselves_only() -> None:
    from transformers import AutoTokenizer

    packer = Packer(AutoTokenizer.from_pretrained(CHECKPOINT), image_tokens=3)
    asked = [("what", "what is this?", "a cat"), ("yes", "is it a dog?", "no")]
    both, alone = packer([asked]), packer([asked[1:]])
    prefix = len(packer.before) + 3
    length = alone.ids.shape[1] - prefix
    assert both.ids[0, -length:].tolist() == alone.ids[0, -length:].tolist()
    assert both.positions[0, -length:].tolist() == alone.positions[0, -length:].tolist()
    seen = both.mask[0, 0, -length:] == 0
    assert seen[:, :prefix].all() and not seen[:, prefix:-length].any()
    assert torch.equal(seen[:, -length:], torch.ones(length, length).tril().bool())
    assert both.image[0].sum() == 3 and (both.targets[0, :prefix] == IGNORE).all()
