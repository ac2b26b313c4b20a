"""Where rounding the LM to 4 bits hurts: which matrices, which layers, which tokens; and what MBQ and HQQ could gain from.

    python -m recipes.base.sensitivity     # after recipes.base.study has asked the teacher; a few minutes

Everything on the pictures that `recipes.base.study` recovers with, none of which is in a test. KL in 1e-3 nats a token of the
teacher's answers, from the float LM.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from converters import ggml
from converters.decoder import Decoder, Weights, faster
from converters.files import parts
from converters.files.parts import Half
from converters.method import coder_of, parse_quant
from converters.recovery import training
from converters.recovery.asked import IMAGE, Shown
from converters.recovery.student import Fixed, Lm, teacher
from edge_vqa.bundles import store

PICTURES = 20
KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd")
ROUNDED = " rounded"


@dataclass(frozen=True)
class Parted(Decoder):
    """Rounded weights at some tokens, float weights at the others."""

    which: list[Tensor] = field(default_factory=list)  # the mask [n] of the batch at hand

    def linear(self, x: Tensor, w: Weights, part: str) -> Tensor:
        name = f"{part}.weight"
        if name + ROUNDED not in w:
            return super().linear(x, w, part)
        return torch.where(self.which[0][:, None], linear(x, w[name + ROUNDED]), linear(x, w[name]))


class PartedLm(Lm):
    """A float LM with rounded weights at the tokens of one sort."""

    def __init__(self, lm: Half, rounded: dict[str, Tensor], sort: Callable[[Shown], Tensor]) -> None:
        super().__init__(lm, {name: Fixed(part.read()) for name, part in lm.tensors.items() if len(part.shape) > 1})
        fields = {one.name: getattr(self.decoder, one.name) for one in dataclasses.fields(Decoder)}
        self.decoder = Parted(**fields)
        self.rounded, self.sort = rounded, sort

    def weights(self, number: int) -> Weights:
        found = super().weights(number)
        own = {short: self.rounded.get(f"blk.{number}.{short}") for short in found}
        return found | {short + ROUNDED: values for short, values in own.items() if values is not None}

    def forward(self, rows: Sequence[Shown]) -> Tensor:
        self.decoder.which[:] = [torch.cat([self.sort(row) for row in rows])]
        return super().forward(rows)


@torch.inference_mode()
def divergence(lm: Lm, master: training.Teacher, rows: Sequence[Shown]) -> float:
    with faster():
        told = [training.compared(lm, master, [n], rows).kl for n in range(len(rows))]
    return 1000 * float(torch.cat(told).mean())


def replaced(lm: Half, rounded: dict[str, Tensor], names: Iterable[str]) -> Lm:
    """The float LM with some matrices rounded."""
    chosen = set(names)
    return Lm(
        lm,
        {
            name: Fixed(rounded[name].numpy() if name in chosen else part.read())
            for name, part in lm.tensors.items()
            if len(part.shape) > 1
        },
    )


def ranges(lm: Half, rows: Sequence[Shown]) -> dict[str, tuple[float, float]]:
    """By group of linears with one input: how far its largest channel stands out (root mean square, over the median channel's),
    at image tokens and at text tokens, medians over layers."""
    float_lm, found = teacher(lm), dict[str, list[tuple[float, float]]]()
    with torch.inference_mode():
        image = torch.cat([row.tokens for row in rows]) == IMAGE
        x, angles, spans = float_lm.entering(rows)
        after = torch.cat([(row.segment > 0) for row in rows])

        def see(name: str, t: Tensor) -> None:
            sizes = [t[mask].square().mean(0).sqrt() for mask in (image, after)]
            found.setdefault(name, []).append(tuple(float(size.max() / size.median()) for size in sizes))  # type: ignore[arg-type]

        for number in range(float_lm.decoder.layers):
            x = float_lm.decoder.layer(x, float_lm.weights(number), angles, see, spans)
    return {name: tuple(np.median(np.array(each), 0).tolist()) for name, each in found.items()}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("build/base/study/bf16"))
    parser.add_argument("--asked", type=Path, required=True, help="asked-....pt of a recovery")
    parser.add_argument("--type", default="q4_0")
    arguments = parser.parse_args()
    lm = parts.from_gguf(store.read(arguments.bundle).files["lm"])
    known = training.load(arguments.asked)  # sorted by where pictures come from
    rows = [Shown(**row) for row in known[:: max(1, len(known) // PICTURES)][:PICTURES]]
    coder = coder_of(parse_quant(arguments.type), arguments.type, 2)
    matrices = {name: part for name, part in lm.tensors.items() if len(part.shape) > 1}
    rounded = {name: torch.from_numpy(ggml.dequantise(coder(part.read()), arguments.type)) for name, part in matrices.items()}
    master = training.Teacher(lm)
    layers = lm.number("block_count")
    thirds = [range(layers * n // 3, layers * (n + 1) // 3) for n in range(3)]

    print(f"| rounded to {arguments.type} | all layers | first third | middle | last |\n|---|---|---|---|---|")
    for kind in KINDS:
        named = [[name for name in matrices if name.split(".")[-2] == kind]]
        if kind != "token_embd":
            named += [[f"blk.{n}.{kind}.weight" for n in third] for third in thirds]
        cells = [f"{divergence(replaced(lm, rounded, names), master, rows):.2f}" for names in named]
        print("| " + " | ".join([kind, *cells, *[""] * (4 - len(cells))]) + " |", flush=True)
    inside = {name: values for name, values in rounded.items() if name.startswith("blk.")}
    sorts: dict[str, Callable[[Shown], Tensor]] = {
        "every token": lambda row: torch.ones(len(row), dtype=torch.bool),
        "image tokens": lambda row: row.tokens == IMAGE,
        "questions and answers": lambda row: row.segment > 0,
        "text before the picture": lambda row: (row.segment == 0) & (row.tokens != IMAGE),
    }
    print("\n| all matrices of layers rounded at | tokens | KL |\n|---|---|---|")
    for name, sort in sorts.items():
        count = sum(int(sort(row).sum()) for row in rows)
        print(f"| {name} | {count:,} | {divergence(PartedLm(lm, inside, sort), master, rows):.2f} |", flush=True)
    print("\n| input of | largest channel over median, image tokens | text tokens |\n|---|---|---|")
    for group, (image, text) in ranges(lm, rows).items():
        print(f"| {group} | {image:.1f} | {text:.1f} |", flush=True)


if __name__ == "__main__":
    main()
