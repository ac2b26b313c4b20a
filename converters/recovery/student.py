"""A quantised LM as torch trains it: norms, biases, a gain for each block, and beside these either the weights, which are
rounded over and over, or nothing: then the codes are held.

- Weights: what is used is W + r, where r = round(W) - W was taken some steps ago: a straight-through estimator (Bengio et al.
  2013, arXiv 1308.3432) whose rounding is llama.cpp's own, of any type, not one of ours that resembles it.
- Gains: every block of a gguf type is proportional to its float16 scales, so that a factor for each block can be learned with
  the codes held, and goes into the scales without a trace at run time. With one scale a row this is PEQA (Kim et al.,
  NeurIPS 2023, arXiv 2305.14152).

The codes of the embedding table and of the output matrix are held always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from converters import ggml
from converters.decoder import PLAIN, Spans, Weights, decoder_of
from converters.files.parts import FLOATS, Half
from converters.files.writer import Coder
from converters.ggml import Bytes, Floats
from converters.recovery.asked import IMAGE, Shown
from edge_vqa.errors import EdgeVqaError

# type -> where the float16 numbers of a block stand (ggml-common.h)
SCALES = {
    **{"q4_0": (0,), "q5_0": (0,), "q8_0": (0,), "iq4_nl": (0,), "q4_1": (0, 2), "q5_1": (0, 2)},
    **{"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)},
}
TABLES = ("token_embd.weight", "output.weight")


def scaled(data: Bytes, type_: str, gains: Floats) -> Bytes:
    """Blocks uint8 [rows, bytes], each times its gain, float32 [rows, blocks]."""
    blocks = data.reshape(-1, ggml.block(type_)[1]).copy()
    for place in SCALES[type_]:
        scale = blocks[:, place : place + 2].copy().view(np.float16).astype(np.float32) * gains.reshape(-1, 1)
        blocks[:, place : place + 2] = scale.astype(np.float16).view(np.uint8)
    return blocks.reshape(data.shape)


def gained(values: Tensor, gains: Tensor) -> Tensor:
    """Values [rows, in] of blocks, times the gains [rows, blocks]."""
    return (values.view(*gains.shape, -1) * gains[..., None]).view(values.shape)


def ones(values: Tensor, type_: str) -> nn.Parameter:
    """A gain for each block of a matrix."""
    return nn.Parameter(torch.ones(len(values), values.shape[1] // ggml.block(type_)[0]))


class Held(nn.Module):  # type: ignore[misc]
    """A matrix [out, in] whose codes are held: its values times a gain a block."""

    def __init__(self, data: Bytes, type_: str) -> None:
        super().__init__()
        self.data, self.type = data, type_
        self.values = torch.from_numpy(ggml.dequantise(data, type_))
        self.gains = ones(self.values, type_)

    def rows(self, numbers: Tensor | slice) -> Tensor:
        return gained(self.values[numbers], self.gains[numbers])

    def forward(self) -> Tensor:
        return self.rows(slice(None))

    def stored(self) -> Bytes:
        return scaled(self.data, self.type, self.gains.detach().numpy())


class Free(nn.Module):  # type: ignore[misc]
    """A matrix [out, in] that learns through its rounding, and a gain a block beside."""

    def __init__(self, values: Floats, coder: Coder, type_: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.array(values)))
        self.gains = ones(self.weight, type_)
        self.coder, self.type = coder, type_
        self.residual = torch.zeros_like(self.weight)
        self.settle()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def settle(self) -> None:
        """Round anew."""
        self.residual = torch.from_numpy(ggml.dequantise(self.codes(), self.type)) - self.weight

    def forward(self) -> Tensor:
        return gained(self.weight + self.residual, self.gains)

    def codes(self) -> Bytes:
        """Blocks without their gains."""
        return self.coder(self.weight.detach().numpy())

    def stored(self) -> Bytes:
        return scaled(self.codes(), self.type, self.gains.detach().numpy())


class Fixed(nn.Module):  # type: ignore[misc]
    """A matrix that is stored in floats, as it is."""

    def __init__(self, values: Floats) -> None:
        super().__init__()
        self.values = torch.from_numpy(values)

    def rows(self, numbers: Tensor | slice) -> Tensor:
        return self.values[numbers]

    def forward(self) -> Tensor:
        return self.values


class Lm(nn.Module):  # type: ignore[misc]
    """The LM's forward pass over rows of pictures and questions; what its matrices are, subclasses and callers say."""

    def __init__(self, lm: Half, matrices: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.decoder = decoder_of(lm)
        if self.decoder.kind not in PLAIN:
            raise EdgeVqaError(f"recovery knows the layers of {', '.join(PLAIN)}, not of {self.decoder.kind}", "leave it out")
        self.vectors = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.from_numpy(np.array(part.read())))
                for name, part in lm.tensors.items()
                if len(part.shape) == 1
            }
        )
        self.matrices = nn.ModuleDict({_key(name): matrix for name, matrix in matrices.items()})
        self.names = list(lm.tensors)
        self.layers: list[dict[str, str]] = [{} for _ in range(self.decoder.layers)]
        for name in self.names:
            if name.startswith("blk."):
                _, number, short = name.split(".", 2)
                self.layers[int(number)][short] = _key(name)

    def weights(self, number: int) -> Weights:
        return {
            short: self.vectors[key] if key in self.vectors else self.matrices[key]()
            for short, key in self.layers[number].items()
        }

    def entering(self, rows: Sequence[Shown]) -> tuple[Tensor, Tensor, Spans]:
        """What the first layer gets, [tokens of all rows, width of image embeddings]; the tokens' angles; which sees which."""
        tokens = torch.cat([row.tokens for row in rows])
        shown = tokens == IMAGE
        x = self.matrices[_key(TABLES[0])].rows(tokens.clamp_min(0))
        image = torch.cat([row.image.float() for row in rows])
        x = pad(x, (0, image.shape[1] - x.shape[1])).masked_scatter(shown[:, None], image)
        return x, self.decoder.angles(torch.cat([row.positions for row in rows], 1)), [row.seen() for row in rows]

    def forward(self, rows: Sequence[Shown]) -> Tensor:
        """States after the last norm, [tokens of all rows, hidden]."""
        x, angles, spans = self.entering(rows)
        for number in range(self.decoder.layers):
            x = self.decoder.layer(x, self.weights(number), angles, spans=spans)
        return self.decoder.norm(x, self.vectors[_key("output_norm.weight")])

    def logits(self, states: Tensor) -> Tensor:
        """Of the next token, float32 [n, vocabulary]."""
        output = _key(TABLES[1])
        return linear(states, self.matrices[output if output in self.matrices else _key(TABLES[0])]()).float()


def teacher(lm: Half) -> Lm:
    """The float LM; nothing of it learns."""
    made = Lm(lm, {name: Fixed(part.read()) for name, part in lm.tensors.items() if len(part.shape) > 1})
    made.requires_grad_(False)
    return made


class Student(Lm):
    """The LM as it will be stored. types, coders: by gguf name."""

    def __init__(self, lm: Half, types: Mapping[str, str], coders: Mapping[str, Coder], *, held: bool) -> None:
        matrices: dict[str, nn.Module] = {}
        for name, part in lm.tensors.items():
            type_ = types[name]
            if len(part.shape) == 1:
                continue
            if type_ in FLOATS:
                matrices[name] = Fixed(part.read())
            elif type_ not in SCALES:
                raise EdgeVqaError(f"{name} would be stored as {type_}, which cannot be trained", "choose another --quant")
            elif held or name in TABLES:
                matrices[name] = Held(coders[name](part.read()), type_)
            else:
                matrices[name] = Free(part.read(), coders[name], type_)
        super().__init__(lm, matrices)

    def settle(self) -> None:
        """Round every matrix that is free."""
        for matrix in self.matrices.values():
            if isinstance(matrix, Free):
                matrix.settle()

    def hold(self) -> None:
        """From here on the codes are held, and gains learn."""
        for key, matrix in list(self.matrices.items()):
            if isinstance(matrix, Free):
                self.matrices[key] = Held(matrix.stored(), matrix.type)

    def stored(self) -> Iterator[tuple[str, Bytes | Floats]]:
        """By gguf name: blocks of matrices, float32 of vectors. Matrices that are stored in floats stay as they were."""
        for name in self.names:
            key = _key(name)
            if key in self.vectors:
                yield name, self.vectors[key].detach().numpy()
            elif isinstance(matrix := self.matrices[key], Held | Free):
                yield name, matrix.stored()


def _key(name: str) -> str:
    """A tensor's name as torch takes it."""
    return name.replace(".", "/")
