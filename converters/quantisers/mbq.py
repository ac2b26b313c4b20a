"""Modality-balanced quantisation: channels are scaled before rounding so that errors land where the answer feels them least.

Source: Li et al., CVPR 2025 (arXiv 2412.19509). Vision tokens are many and forgiving, text tokens few and sensitive. Their
weight is r = mean |gradient| at vision tokens / mean |gradient| at the answer's tokens, of the language-model loss, at the
outputs of attention and of the MLP, each the median over layers. For each group of linears that share an input the scale
s = mean |x|^a is searched over 20 values of a in [0, 1), minimising the error of the block's output after rounding,
sum over text tokens + r * sum over vision tokens of |Y - Y'|.
Scales are folded exactly: into the norms before q, k, v and before gate, up; into v for o (shared by the query heads of a
key head), and into up for down.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from converters.decoder import Decoder, Place, Spans, Weights, decoder_of, faster, last_norm, output, tensor, weights_of
from converters.files.parts import Half, Part
from converters.ggml import Floats

RATIOS = 20
GRADIENT_BYTES = 2 << 30  # for the inputs of all layers, which the backward pass needs
# group: linears that share an input -> where 1 / s goes
GROUPS = {
    "attn_norm": (("attn_q", "attn_k", "attn_v"), "attn_norm"),
    "attn_output": (("attn_output",), "attn_v"),
    "ffn_norm": (("ffn_gate", "ffn_up"), "ffn_norm"),
    "ffn_down": (("ffn_down",), "ffn_up"),
}
# with LFM2's convolution in the place of attention, whose output is multiplied by the second third of what in_proj makes
CONVOLVED = GROUPS | {
    "attn_norm": (("shortconv.in_proj",), "attn_norm"),
    "attn_output": (("shortconv.out_proj",), "shortconv.in_proj"),
}


def groups_of(names: Container[str], block: str = "") -> dict[str, tuple[tuple[str, ...], str]]:
    """The groups of a layer that has tensors of these names, behind `block`."""
    return CONVOLVED if f"{block}shortconv.in_proj.weight" in names else GROUPS


Rounding = Callable[[str, Floats], Floats]  # gguf name, float32 values -> values after a round trip
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """One question with its answer, as the LM gets it: n tokens.

    embeddings: [n, hidden]. positions: [4, n]. vision, answer: masks [n]; `answer` marks the tokens whose logits predict the
    answer, and `targets` are the answer's token ids. decoded: of an LM with an encoder, what its decoder gets [len(targets),
    hidden]; embeddings are the encoder's then.
    """

    embeddings: Floats
    positions: Floats
    vision: np.ndarray
    answer: np.ndarray
    targets: list[int]
    decoded: Floats | None = None


@dataclass(frozen=True)
class Balance:
    """r of the paper: how much an error at a vision token counts, against one at a text token."""

    attention: float
    mlp: float

    def weights(self, samples: Sequence[Sample], group: str) -> Tensor:
        """One weight a token [n], for the block that a group of linears belongs to.

        Text before the picture counts nothing: it is the same for every question, and the first token's activations are so
        much larger than all others' that the search would look at nothing else (Sun et al. 2024, arXiv 2402.17762).
        """
        r = self.attention if group.startswith("attn") else self.mlp
        weights = [np.where(s.vision, r, 1.0) * (np.arange(len(s.vision)) >= s.vision.argmax()) for s in samples]
        return torch.from_numpy(np.concatenate(weights).astype(np.float32))


def calibrate(
    lm: Half,
    samples: Sequence[Sample],
    rounded: Rounding | None,
    *,
    importance: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> tuple[Half, dict[str, Floats]]:
    """Search scales with `rounded` and fold them into `lm`, or (`rounded` None) weigh input channels with `importance`.

    Importance of a channel: sum over text tokens + r * sum over vision tokens of x^2, by gguf name.
    """
    decoder = decoder_of(lm)
    balance = measure_balance(lm, decoder, samples, progress)
    scales: dict[str, Floats] = {}
    weighed: dict[str, Floats] = {}
    states = [torch.from_numpy(sample.embeddings) for sample in samples]
    places = [place_of(decoder, sample) for sample in samples]
    with torch.inference_mode():
        for number in range(decoder.layers):
            progress("searching scales" if rounded else "weighing channels", number, decoder.layers)
            w = weights_of(lm, number)
            inputs: dict[str, list[Tensor]] = {}

            def keep(name: str, t: Tensor, inputs: dict[str, list[Tensor]] = inputs) -> None:
                if name in GROUPS:
                    inputs.setdefault(name, []).append(t)

            there = [decoder.at(place, number) for place in places]
            states = [decoder.layer(x, w, a, keep, spans) for x, (a, spans) in zip(states, there, strict=True)]
            for group, (linears, _) in groups_of(w).items():
                token_weight = balance.weights(samples, group)
                if rounded:
                    search = partial(round_all, rounded, f"blk.{number}")
                    s = _search(decoder, group, inputs[group], there, w, search, token_weight)
                    scales[f"blk.{number}.{group}"] = s.numpy()
                if importance:
                    x = torch.cat(inputs[group])
                    second = (x.pow(2) * token_weight[:, None]).sum(0) / token_weight.sum()
                    weighed |= {f"blk.{number}.{part}.weight": second.numpy() for part in linears}
    if importance and "output.weight" in lm.tensors:
        last = decoder.norm(torch.cat(states), tensor(last_norm(lm)))
        answers = torch.from_numpy(np.concatenate([sample.answer for sample in samples]))
        weighed["output.weight"] = last[answers].pow(2).mean(0).numpy()
    progress("searching scales" if rounded else "weighing channels", decoder.layers, decoder.layers)
    return fold(lm, decoder, scales), weighed


# -- the balance of modalities ----------------------------------------------------------------------------------------


def place_of(decoder: Decoder, sample: Sample) -> Place:
    """Where a sample's tokens stand."""
    return decoder.place(torch.from_numpy(sample.positions), torch.from_numpy(sample.vision))


def measure_balance(lm: Half, decoder: Decoder, samples: Sequence[Sample], progress: Progress) -> Balance:
    """Gradients of the language-model loss at every block's outputs, by a backward pass of one layer at a time."""
    hidden = samples[0].embeddings.shape[1]
    room = GRADIENT_BYTES // (4 * hidden * (decoder.layers + 1))
    used: list[Sample] = []
    for sample in samples:
        if used and sum(len(s.vision) for s in used) + len(sample.vision) > room:
            break
        used.append(sample)
    places = [place_of(decoder, sample) for sample in used]
    entering = [[torch.from_numpy(sample.embeddings) for sample in used]]  # [layer][sample]
    total = 2 * decoder.layers
    with torch.inference_mode():
        for number in range(decoder.layers):
            progress("gradients", number, total)
            w = weights_of(lm, number)
            there = [decoder.at(place, number) for place in places]
            entering.append([decoder.layer(x, w, a, spans=spans) for x, (a, spans) in zip(entering[-1], there, strict=True)])
    gradients = _loss_gradients(decoder, lm, output(lm), entering.pop(), used)
    ratios: dict[str, list[float]] = {"attention": [], "mlp": []}
    for number in reversed(range(decoder.layers)):
        progress("gradients", total - number - 1, total)
        w = weights_of(lm, number)
        sizes: dict[tuple[str, bool], list[Tensor]] = {}
        for i, sample in enumerate(used):
            x = entering[number][i].clone().requires_grad_()
            outputs: dict[str, Tensor] = {}

            def keep(name: str, t: Tensor, outputs: dict[str, Tensor] = outputs) -> None:
                if name in ratios:
                    t.retain_grad()
                    outputs[name] = t

            angles, spans = decoder.at(places[i], number)
            decoder.layer(x, w, angles.clone(), keep, spans).backward(gradients[i])
            for name, t in outputs.items():
                assert t.grad is not None
                size = t.grad.abs().mean(1)
                sizes.setdefault((name, True), []).append(size[torch.from_numpy(sample.vision)])
                sizes.setdefault((name, False), []).append(size[torch.from_numpy(sample.answer)])
            assert x.grad is not None
            gradients[i] = x.grad
        entering.pop()
        for name, found in ratios.items():
            seen, said = (torch.cat(sizes[name, modality]).mean() for modality in (True, False))
            found.append(float(seen / said.clamp_min(1e-12)))
    progress("gradients", total, total)
    return Balance(float(np.median(ratios["attention"])), float(np.median(ratios["mlp"])))


def _loss_gradients(decoder: Decoder, lm: Half, head: Part, last: list[Tensor], samples: Sequence[Sample]) -> list[Tensor]:
    """Gradient of the mean loss of each answer's tokens with respect to the last layer's output."""
    norm, matrix = tensor(last_norm(lm)), tensor(head)
    gradients = []
    for x, sample in zip(last, samples, strict=True):
        x = x.clone().requires_grad_()
        logits = linear(decoder.norm(x[torch.from_numpy(sample.answer)], norm), matrix)
        cross_entropy(logits, torch.tensor(sample.targets)).backward()
        assert x.grad is not None
        gradients.append(x.grad)
    return gradients


# -- the search -------------------------------------------------------------------------------------------------------


def round_all(rounded: Rounding, block: str, w: Weights, s: Tensor, linears: Sequence[str]) -> Weights:
    """The weights of `linears` of a block, scaled, rounded and scaled back."""
    return {
        f"{part}.weight": torch.from_numpy(
            rounded(f"{block}.{part}.weight", np.ascontiguousarray((w[f"{part}.weight"] * s).numpy()))
        )
        / s
        for part in linears
    }


def _shared(decoder: Decoder, group: str, convolved: bool) -> tuple[int, int, int] | None:
    """How channels lie whose scale is one for several: those of query heads that share a value."""
    if group != "attn_output" or decoder.heads == decoder.keys or convolved:
        return None
    return decoder.keys, decoder.heads // decoder.keys, decoder.width


def _search(
    decoder: Decoder,
    group: str,
    inputs: list[Tensor],
    there: Sequence[tuple[Tensor, Spans]],
    w: Weights,
    round_all: Callable[[Weights, Tensor, Sequence[str]], Weights],
    token_weight: Tensor,
) -> Tensor:
    """The scale of a group's input channels [n_channels] with the smallest balanced error. there: of each prompt, see
    `Decoder.at`."""
    groups = groups_of(w)
    linears, last = groups[group][0], groups["attn_output"][0][0]

    def made(weights: Weights) -> Tensor:
        if group == "attn_norm":
            heads = [decoder.mixed(h, weights, a, spans) for h, (a, spans) in zip(inputs, there, strict=True)]
            return linear(torch.cat(heads), w[f"{last}.weight"])
        x = torch.cat(inputs)
        if group == "ffn_norm":
            return linear(decoder.gated(x, weights), w["ffn_down.weight"])
        return linear(x, weights[f"{linears[0]}.weight"])

    shape = _shared(decoder, group, groups is CONVOLVED)
    return best_scale(made, torch.cat(inputs), w, linears, round_all, token_weight, shape)


def best_scale(
    made: Callable[[Weights], Tensor],
    inputs: Tensor,
    w: Weights,
    linears: Sequence[str],
    round_all: Callable[[Weights, Tensor, Sequence[str]], Weights],
    token_weight: Tensor,
    shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Of 20 scales of the input channels of `linears`, ones among them, that with the smallest balanced error in what is made.

    inputs: [n, channels]. token_weight: [n]. shape: see `_shared`.
    """
    with faster():  # what bfloat16 loses is small beside what four bits lose, and the same for all candidates
        exact = made(w).float()
    size = (inputs.abs() * token_weight[:, None]).sum(0) / token_weight.sum()
    # a channel may be quiet but at tokens that count nothing, where it is huge: divided by a small s, it leaves float16
    extreme = inputs.abs().amax(0)
    if shape:
        size = size.view(shape).mean(1, keepdim=True).expand(shape).reshape(-1)
        extreme = extreme.view(shape).amax(1, keepdim=True).expand(shape).reshape(-1)
    best, smallest = torch.ones_like(size), torch.inf
    for step in range(RATIOS):
        s = size.pow(step / RATIOS).clamp_min(1e-4)
        s = (s / (s.max() * s.min()).sqrt()).maximum(extreme / extreme.max())
        rounded = w | round_all(w, s, linears)
        with faster():
            error = (made(rounded).float() - exact).abs().sum(1)
        balanced = float((error * token_weight).sum())
        if balanced < smallest:
            best, smallest = s, balanced
    return best


# -- folding ----------------------------------------------------------------------------------------------------------


def fold(lm: Half, decoder: Decoder, scales: dict[str, Floats]) -> Half:
    """The same LM with every group's input channels times s, and what makes them divided by s. scales: by `blk.N.group`."""
    tensors = dict(lm.tensors)
    for place, s in scales.items():
        block, group = place.rsplit(".", 1)
        groups = groups_of(tensors, f"{block}.")
        linears, source = groups[group]
        for part in linears:
            tensors[f"{block}.{part}.weight"] = times(tensors[f"{block}.{part}.weight"], s)
        inverse = 1 / s
        if source == "shortconv.in_proj":
            inverse = np.concatenate([np.ones_like(inverse), inverse, np.ones_like(inverse)])
        elif group == "attn_output":  # one of the query heads that share a value
            inverse = inverse.reshape(decoder.keys, -1, decoder.width)[:, 0].reshape(-1)
        if group in ("attn_output", "ffn_down"):
            tensors[f"{block}.{source}.weight"] = times(tensors[f"{block}.{source}.weight"], inverse[:, None])
            if f"{block}.{source}.bias" in tensors:
                tensors[f"{block}.{source}.bias"] = times(tensors[f"{block}.{source}.bias"], inverse)
        else:
            tensors[f"{block}.{source}.weight"] = times(tensors[f"{block}.{source}.weight"], inverse)
    return replace(lm, tensors=tensors)


def times(part: Part, factor: Any) -> Part:
    return replace(part, read=partial(_read_times, part, np.asarray(factor, np.float32)))


def _read_times(part: Part, factor: Floats) -> Floats:
    return part.read() * factor
