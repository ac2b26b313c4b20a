"""MBQ for T5 (see `mbq`): scales for the matrices of encoder and decoder.

Vision tokens are the encoder's: r is measured in its blocks, against the question's tokens; the decoder's tokens are the
answer's, and count alike. What the decoder attends to goes into keys and values of all its layers: these are not scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from converters.decoder import Weights, output, tensor, weights_of
from converters.files.parts import Half
from converters.ggml import Floats
from converters.quantisers.mbq import Progress, Rounding, Sample, best_scale, round_all, times
from converters.t5_layers import T5, t5_of

# group: linears that share an input -> where 1 / s goes; rows of it where it is no norm
ENCODER = {
    "attn_norm": (("attn_q", "attn_k", "attn_v"), "attn_norm"),
    "attn_o": (("attn_o",), "attn_v"),
    "ffn_norm": (("ffn_gate", "ffn_up"), "ffn_norm"),
    "ffn_down": (("ffn_down",), "ffn_up"),
}
DECODER = ENCODER | {
    "cross_attn_norm": (("cross_attn_q",), "cross_attn_norm"),
    "cross_attn_o": (("cross_attn_o",), "cross_attn_v"),
}


@dataclass(eq=False)
class Stack:
    """One half of the LM, and its states of each sample. half: `enc.` or `dec.`."""

    half: str
    layers: int
    states: list[Tensor]
    biases: list[Tensor]
    groups: dict[str, tuple[tuple[str, ...], str]]


def stacks(lm: Half, t5: T5, samples: Sequence[Sample]) -> tuple[Stack, Stack]:
    """Encoder and decoder, as samples enter them."""
    made = []
    for half, layers, entering, groups in (
        ("enc.", t5.layers, [sample.embeddings for sample in samples], ENCODER),
        ("dec.", t5.later, [sample.decoded for sample in samples], DECODER),
    ):
        states = [torch.from_numpy(np.asarray(x)) for x in entering]
        table = tensor(lm.tensors[f"{half}blk.0.attn_rel_b.weight"])
        biases = [t5.bias(table, len(x), causal=half == "dec.") for x in states]
        made.append(Stack(half, layers, states, biases, groups))
    return made[0], made[1]


def encoded_by(lm: Half, t5: T5, states: Sequence[Tensor]) -> list[Tensor]:
    """What the decoder attends to."""
    weight = tensor(lm.tensors["enc.output_norm.weight"])
    return [t5.norm(x, weight) for x in states]


def calibrate(
    lm: Half, samples: Sequence[Sample], rounded: Rounding | None, *, importance: bool, progress: Progress
) -> tuple[Half, dict[str, Floats]]:
    """As `mbq.calibrate`."""
    t5 = t5_of(lm)
    attention, mlp = _balance(lm, t5, samples, progress)
    tensors, weighed = dict(lm.tensors), dict[str, Floats]()
    encoder, decoder = stacks(lm, t5, samples)
    step, total = "searching scales" if rounded else "weighing channels", t5.layers + t5.later
    vision = np.concatenate([sample.vision for sample in samples])
    encoded: list[Tensor] | None = None
    with torch.inference_mode():
        for stack in (encoder, decoder):
            for number in range(stack.layers):
                progress(step, number + (t5.layers if stack is decoder else 0), total)
                block, w = f"{stack.half}blk.{number}", weights_of(lm, number, stack.half)
                inputs: dict[str, list[Tensor]] = {}

                def keep(name: str, t: Tensor, inputs: dict[str, list[Tensor]] = inputs) -> None:
                    inputs.setdefault(name, []).append(t)

                sources = encoded or [None] * len(samples)
                stack.states = [
                    t5.layer(x, w, bias, source, keep)
                    for x, bias, source in zip(stack.states, stack.biases, sources, strict=True)
                ]
                for group, (linears, into) in stack.groups.items():
                    x = torch.cat(inputs[group])
                    r = attention if group.startswith("attn") else mlp
                    counts = np.where(vision, r, 1.0) if stack is encoder else np.ones(len(x))
                    token_weight = torch.from_numpy(counts.astype(np.float32))
                    if rounded:
                        made = partial(_made, t5, group, inputs[group], stack, sources, w)
                        s = best_scale(made, x, w, linears, partial(round_all, rounded, block), token_weight).numpy()
                        for part in linears:
                            name = f"{block}.{part}.weight"
                            tensors[name] = times(tensors[name], s)
                        name = f"{block}.{into}.weight"
                        tensors[name] = times(tensors[name], 1 / s if into.endswith("norm") else (1 / s)[:, None])
                    if importance:
                        second = (x.pow(2) * token_weight[:, None]).sum(0) / token_weight.sum()
                        weighed |= {f"{block}.{part}.weight": second.numpy() for part in linears}
                if importance and encoded is not None:
                    second = torch.cat(encoded).pow(2).mean(0).numpy()
                    weighed |= {f"{block}.cross_attn_{part}.weight": second for part in "kv"}
            if stack is encoder:
                encoded = encoded_by(lm, t5, encoder.states)
    progress(step, total, total)
    return replace(lm, tensors=tensors), weighed


def _made(
    t5: T5, group: str, inputs: list[Tensor], stack: Stack, sources: Sequence[Tensor | None], w: Weights, weights: Weights
) -> Tensor:
    """A block's output [n, hidden], with other weights of a group's linears."""
    if group in ("attn_norm", "cross_attn_norm"):
        name = group.removesuffix("_norm")
        heads = [
            t5.attend(h, h if name == "attn" or source is None else source, weights, name, bias if name == "attn" else None)
            for h, bias, source in zip(inputs, stack.biases, sources, strict=True)
        ]
        return linear(torch.cat(heads), w[f"{name}_o.weight"])
    x = torch.cat(inputs)
    if group == "ffn_norm":
        return linear(t5.gated(x, weights), w["ffn_down.weight"])
    return linear(x, weights[f"{group}.weight"])


def _balance(lm: Half, t5: T5, samples: Sequence[Sample], progress: Progress) -> tuple[float, float]:
    """r of attention and of the MLP: gradients of the loss at the encoder's blocks, of vision tokens against text, the median
    over layers. By a backward pass of one layer at a time."""
    encoder, decoder = stacks(lm, t5, samples)
    entering: dict[str, list[list[Tensor]]] = {}
    total = 2 * (t5.layers + t5.later)
    sources: Sequence[Tensor | None] = [None] * len(samples)
    with torch.inference_mode():
        for stack in (encoder, decoder):
            entering[stack.half] = [stack.states]
            for number in range(stack.layers):
                progress("gradients", number + (t5.layers if stack is decoder else 0), total)
                w, last = weights_of(lm, number, stack.half), entering[stack.half][-1]
                made = [t5.layer(x, w, bias, source) for x, bias, source in zip(last, stack.biases, sources, strict=True)]
                entering[stack.half].append(made)
            if stack is encoder:
                sources = encoded_by(lm, t5, entering["enc."][-1])
    norm, matrix = tensor(lm.tensors["dec.output_norm.weight"]), tensor(output(lm))
    ratios: dict[str, list[float]] = {"attention": [], "mlp": []}
    gradients, seen = [], [torch.zeros_like(source) for source in sources if source is not None]
    for x, sample in zip(entering["dec."].pop(), samples, strict=True):
        x = x.clone().requires_grad_()
        cross_entropy(linear(t5.norm(x, norm), matrix), torch.tensor(sample.targets)).backward()
        gradients.append(_grad(x))
    for number in reversed(range(t5.later)):
        w, states = weights_of(lm, number, "dec."), entering["dec."][number]
        for i, x in enumerate(states):
            x, source = x.clone().requires_grad_(), seen[i].new_tensor(sources[i].numpy()).requires_grad_()  # type: ignore[union-attr]
            t5.layer(x, w, decoder.biases[i].clone(), source).backward(gradients[i])
            gradients[i], seen[i] = _grad(x), seen[i] + _grad(source)
    weight = tensor(lm.tensors["enc.output_norm.weight"])
    for i, x in enumerate(entering["enc."].pop()):
        x = x.clone().requires_grad_()
        t5.norm(x, weight).backward(seen[i])
        gradients[i] = _grad(x)
    for number in reversed(range(t5.layers)):
        progress("gradients", total - number - 1, total)
        w, sizes = weights_of(lm, number, "enc."), dict[tuple[str, bool], list[Tensor]]()
        for i, x in enumerate(entering["enc."][number]):
            x, outputs = x.clone().requires_grad_(), dict[str, Tensor]()

            def keep(name: str, t: Tensor, outputs: dict[str, Tensor] = outputs) -> None:
                if name in ratios:
                    t.retain_grad()
                    outputs[name] = t

            t5.layer(x, w, encoder.biases[i].clone(), None, keep).backward(gradients[i])
            gradients[i], vision = _grad(x), torch.from_numpy(samples[i].vision)
            for name, t in outputs.items():
                size = _grad(t).abs().mean(1)
                sizes.setdefault((name, True), []).append(size[vision])
                sizes.setdefault((name, False), []).append(size[~vision])
        for name, found in ratios.items():
            of_vision, of_text = (torch.cat(sizes[name, kind]).mean() for kind in (True, False))
            found.append(float(of_vision / of_text.clamp_min(1e-12)))
    progress("gradients", total, total)
    return float(np.median(ratios["attention"])), float(np.median(ratios["mlp"]))


def _grad(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad
