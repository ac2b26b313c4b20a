"""The finder: reads off the patch states what is drawn where, object by object from left to right, a text letter by letter.

    python -m recipes.base.finder --minutes 20    # after recipes.base.drawings and recipes.base.sights of the shops

Its layers begin as those of the mini's LM, which has learned to read these very states from 700,000 pictures. In place of a
question come `MOST` queries, which see the picture and each other, and each names one object, or none. Which query learns
which object is matched, cheapest first, as in DETR (Carion et al., ECCV 2020, section 3.1): an order from left to right would
be in doubt where two stand one above the other. Letters have their order.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, Idefics3ForConditionalGeneration

from recipes.base import drawings
from recipes.base.drawings import MOST, UNKNOWN, Objects
from recipes.base.eyes import MINI, PATCHES, STATE
from recipes.base.sights import BUILD, SHOPS, Sights
from recipes.mini import scenes
from recipes.mini.model import SHIPPED, keep_freed_memory
from recipes.mini.packing import PREFIX

PATH = BUILD / "finder.pt"
NEURONS = 384  # of each layer's 768, those with the longest weights: the bundle stays small
LOOKS, LOOK, HEAD = (0, 2), 96, 32  # layers before which queries look at the patches; width, and of a head
BATCH, RATE, NEW_RATE, WARM = 256, 5e-4, 2e-3, 100
HELD = 4  # chunks of drawings that are only looked at
FIRST_SHAPE = scenes.LABEL[scenes.SHAPES[0]]
NAMES, COLOURS = 1 + len(scenes.SEEN), 1 + len(scenes.COLOURS)
SIDE = math.isqrt(PATCHES)


class Norm(nn.Module):
    """Root mean square norm (Zhang and Sennrich, NeurIPS 2019)."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(weight.clone()), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt() * self.weight


class Layer(nn.Module):
    """One layer of a Llama, its places in the text known beforehand."""

    def __init__(self, like: nn.Module, cosines: Tensor, sines: Tensor) -> None:
        """like: transformers' layer; cosines, sines: [places, head width], of the rotary embedding (Su et al. 2021)."""
        super().__init__()
        attention, mlp = like.self_attn, like.mlp
        self.width = cosines.shape[-1]
        self.first, self.second = (
            Norm(norm.weight.detach(), norm.variance_epsilon) for norm in (like.input_layernorm, like.post_attention_layernorm)
        )
        self.q, self.k, self.v, self.o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        self.gate, self.up, self.down = pruned(mlp)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [n, places, width], mask: [places, places], added."""
        seen = self.first(x)
        q, k, v = (self._heads(project(seen)) for project in (self.q, self.k, self.v))
        group = q.shape[1] // k.shape[1]
        k, v = (one[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for one in (self._turned(k), v))
        weights = self._turned(q) @ k.transpose(2, 3) * self.width**-0.5 + mask
        mixed = (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.o(mixed)
        seen = self.second(x)
        return x + self.down(functional.silu(self.gate(seen)) * self.up(seen))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.width)).transpose(1, 2)

    def _turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cosines + torch.cat([-second, first], -1) * self.sines


class Look(nn.Module):
    """Queries look at the patches themselves, of which the mini's connector keeps a quarter: cross-attention, at first without
    effect."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q = nn.LayerNorm(STATE), nn.Linear(STATE, LOOK)
        self.seen, self.k, self.v = nn.LayerNorm(STATE), nn.Linear(STATE, LOOK), nn.Linear(STATE, LOOK)
        self.where = nn.Parameter(0.02 * torch.randn(PATCHES, LOOK))
        self.o = nn.Linear(LOOK, STATE)
        nn.init.zeros_(self.o.weight)

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        """queries [n, MOST, STATE], states [n, PATCHES, STATE]."""
        seen = self.seen(states)
        q, k, v = (
            one.unflatten(2, (LOOK // HEAD, HEAD)).transpose(1, 2)
            for one in (self.q(self.norm(queries)), self.k(seen) + self.where, self.v(seen))
        )
        weights = (q @ k.transpose(2, 3) * HEAD**-0.5).softmax(-1)
        return queries + self.o((weights @ v).transpose(1, 2).flatten(2))


def pruned(mlp: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """gate, up and down of the `NEURONS` neurons whose three weights have the largest product of lengths."""
    gate, up, down = (part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    best = (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).topk(NEURONS).indices.sort().values
    made = []
    for weight in (gate[best], up[best], down[:, best]):
        made.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        made[-1].weight = nn.Parameter(weight.clone())
    return made[0], made[1], made[2]


@dataclass(frozen=True)
class Found:
    """What the finder says of n pictures."""

    labels: Tensor  # int64 [n, MOST]: the likeliest of scenes.LABEL, 0 where there is nothing
    sure: Tensor  # [n, MOST]: its probability
    colours: Tensor  # int64 [n, MOST]: 0 for several, or none
    places: Tensor  # [n, MOST, 3]: x, y of the middle and the larger side, in sides of the picture

    def row(self, number: int) -> Found:
        return Found(self.labels[number], self.sure[number], self.colours[number], self.places[number])

    @staticmethod
    def stack(rows: Sequence[Found]) -> Found:
        return Found(*(torch.stack([getattr(row, field.name) for row in rows]) for field in fields(Found)))


def in_order(found: Found) -> Found:
    """Things by x, letters as they stand, then what is none."""
    numbers = torch.arange(MOST)
    there = found.labels > 0
    written = there & (found.labels >= FIRST_CHARACTER)
    key = torch.where(written, numbers / MOST, found.places[..., 0])
    key = torch.where(there, key, 9.0 + numbers)
    place = ranks(key)
    here = (place[:, None] == numbers[:, None]).float()  # [n, to, from]

    def moved(values: Tensor) -> Tensor:
        return (here @ values.float()[..., None])[..., 0]

    places = here @ found.places
    return Found(moved(found.labels).round().long(), moved(found.sure), moved(found.colours).round().long(), places)


def ranks(key: Tensor) -> Tensor:
    """Of each value of a row [n, m], how many come before it: the smaller ones, and of equal ones those to the left."""
    numbers = torch.arange(key.shape[1])
    later = key[:, :, None] - key[:, None]
    tied = (later == 0) & (numbers[:, None] > numbers)
    return ((later > 0) | tied).long().sum(2)


FIRST_CHARACTER = scenes.LABEL[scenes.CHARACTERS[0]]


class Finder(nn.Module):
    """Patch states [n, PATCHES, STATE] -> logits of labels [n, MOST, NAMES], of colours [n, MOST, COLOURS], places."""

    def __init__(self) -> None:
        super().__init__()
        model = Idefics3ForConditionalGeneration.from_pretrained(MINI, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(MINI)
        ids = tokenizer.encode(PREFIX, add_special_tokens=False)
        around = [token for token in ids if token != model.config.image_token_id]
        words = model.model.text_model.embed_tokens.weight.detach()
        self.before = ids.index(model.config.image_token_id)
        self.around = nn.Parameter(words[around].clone())  # what stands before and after the picture
        self.connector = model.model.connector.modality_projection.proj
        self.queries = nn.Parameter(words.std() * torch.randn(MOST, STATE))
        places = len(ids) + MOST
        angles = torch.arange(places)[:, None] * 10000.0 ** (-torch.arange(0, 64, 2) / 64)
        turns = torch.cat([angles, angles], -1)
        layers = model.model.text_model.layers
        self.layers = nn.ModuleList(Layer(layer, turns.cos(), turns.sin()) for layer in layers)
        self.looks = nn.ModuleDict({str(place): Look() for place in LOOKS})
        self.norm = Norm(torch.ones(STATE), 1e-5)
        self.label, self.colour, self.place = (nn.Linear(STATE, size) for size in (NAMES, COLOURS, 3))
        mask = torch.full((places, places), -1e4).triu(1)
        mask[-MOST:] = 0  # queries see each other
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.begin(states)
        for place, layer in enumerate(self.layers):
            if place in LOOKS:
                x = torch.cat([x[:, :-MOST], self.looks[str(place)](x[:, -MOST:], states)], 1)
            x = layer(x, self.mask)
        x = self.norm(x[:, -MOST:])
        return self.label(x), self.colour(x), self.place(x)

    def begin(self, states: Tensor) -> Tensor:
        """What the first layer takes [n, places, STATE]: the picture as the mini's LM gets it, then the queries."""
        n, scale = len(states), SHIPPED.scale
        square = states.reshape(n, SIDE // scale, scale, SIDE // scale, scale * STATE)
        image = self.connector(square.transpose(2, 3).reshape(n, -1, scale * scale * STATE))  # pixel shuffle
        before, after, queries = (
            part.expand(n, -1, -1) for part in (self.around[: self.before], self.around[self.before :], self.queries)
        )
        return torch.cat([before, image.to(before.dtype), after, queries], 1)

    def find(self, states: Tensor) -> Found:
        """In order: things from left to right, letters as they are read."""
        labels, colours, places = self(states)
        sure, best = labels.softmax(-1).max(-1)
        return in_order(Found(best, sure, colours.argmax(-1), places))

    @torch.inference_mode()
    def found(self, states: np.ndarray) -> Found:
        """Of many pictures, some at a time. states: float16 or float32 [n, PATCHES, STATE]."""
        parts = [self.find(torch.from_numpy(states[at : at + 500]).float()) for at in range(0, len(states), 500)]
        return Found(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Found)))

    @staticmethod
    def load() -> Finder:
        finder = Finder()
        finder.load_state_dict(torch.load(PATH)["finder"])
        return finder.eval().requires_grad_(False)


def matched(made: tuple[Tensor, Tensor, Tensor], objects: Objects) -> np.ndarray:
    """Which object each query learns, the cheapest way: [n, MOST]; where there is a text, in order."""
    with torch.no_grad():
        named = made[0].log_softmax(-1)
        labels = torch.from_numpy(objects.labels)
        cost = -named.gather(2, labels[:, None].expand(-1, MOST, -1))  # [n, query, object]
        places = torch.from_numpy(objects.places).float()[:, None]
        cost = (cost + 8 * (made[2][:, :, None] - places).abs().sum(-1).nan_to_num(0)).numpy()
    order = np.tile(np.arange(MOST), (len(cost), 1))
    for row in np.flatnonzero(objects.labels[:, 0] < FIRST_CHARACTER):
        order[row] = linear_sum_assignment(cost[row])[1]
    return order


def loss_of(made: tuple[Tensor, Tensor, Tensor], objects: Objects) -> Tensor:
    made = (made[0].float(), made[1].float(), made[2].float())
    order = matched(made, objects)
    labels, colours = (
        torch.from_numpy(np.take_along_axis(own, order, 1)) for own in (objects.labels, objects.colours)
    )  # fmt: skip
    places = torch.from_numpy(np.take_along_axis(objects.places, order[..., None], 1)).float()
    named, coloured, placed = made
    loss = functional.cross_entropy(named.flatten(0, 1), labels.flatten())
    thing = (labels > 0) & (colours != UNKNOWN)
    loss = loss + 0.5 * functional.cross_entropy(coloured[thing], colours[thing])
    told = ~places[..., 0].isnan()
    return loss + 4 * functional.smooth_l1_loss(placed[told], places[told], beta=0.05)


def report(finder: Finder, states: np.ndarray, objects: Objects) -> str:
    found = finder.found(states)
    labels, colours, places = found.labels.numpy(), found.colours.numpy(), found.places.numpy()
    first = objects.labels[:, 0]
    sorts = {"things": (first > 0) & (first < FIRST_SHAPE), "shapes": (first >= FIRST_SHAPE) & (first < FIRST_CHARACTER)}
    lines = []
    for name, rows in (*sorts.items(), ("writing", first >= FIRST_CHARACTER)):
        said, true = labels[rows], objects.labels[rows]
        alike = (np.count_nonzero(said, 1) == np.count_nonzero(true, 1)).mean()
        ordered = (said == true).all(1)
        right = (np.sort(said) == np.sort(true)).all(1)
        text = f"{name}: all right {right.mean():.1%}, in order too {ordered.mean():.1%}, how many {alike:.1%}"
        told = ~np.isnan(objects.places[rows]).any(-1) & ordered[:, None]
        if told.any():
            off = np.abs(places[rows] - objects.places[rows])[told].mean(0)
            hue = (colours[rows] == objects.colours[rows])[told].mean()
            text += f", colours {hue:.1%}, off by {off[0]:.3f} {off[1]:.3f} {off[2]:.3f}"
        lines.append(text)
    return "; ".join(lines)


def gather() -> tuple[np.ndarray, Objects, int]:
    """Drawings and, last of those that train, photos of shops with nothing on them to be found; how many train."""
    states, objects = drawings.load()
    held = HELD * drawings.CHUNK
    shops = [Sights.load(name) for name in SHOPS]
    bare = np.concatenate([one.states[one.of("train")] for one in shops])
    nothing = Objects(
        np.zeros((len(bare), MOST), np.int64), np.zeros((len(bare), MOST), np.int64), np.full((len(bare), MOST, 3), np.nan)
    )
    order = [(values[held:], more, values[:held]) for values, more in (
        (states, bare), (objects.labels, nothing.labels), (objects.colours, nothing.colours), (objects.places, nothing.places)
    )]  # fmt: skip
    states, labels, colours, places = (np.concatenate(parts) for parts in order)
    return states, Objects(labels, colours, places), len(states) - held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--steps", type=int, help="stop here, for trials")
    parser.add_argument("--go-on", action="store_true", help="from the finder that is there")
    arguments = parser.parse_args()
    keep_freed_memory()
    states, objects, training = gather()
    torch.manual_seed(0)
    finder, rng = Finder(), np.random.default_rng(int(arguments.go_on))
    if arguments.go_on:
        finder.load_state_dict(torch.load(PATH)["finder"])
    new = [
        finder.queries,
        *(p for part in (finder.label, finder.colour, finder.place, finder.norm, finder.looks) for p in part.parameters()),
    ]
    old = [p for p in finder.parameters() if all(p is not one for one in new)]
    groups = [{"params": old, "lr": RATE}, {"params": new, "lr": NEW_RATE}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    began, step, losses = time.monotonic(), 0, []
    print(f"{training} pictures, {sum(p.numel() for p in finder.parameters()) / 1e6:.2f} M parameters", flush=True)
    while (spent := (time.monotonic() - began) / (60 * arguments.minutes)) < 1 and step != arguments.steps:
        factor = min(1, (step + 1) / WARM) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent)))
        for group, rate in zip(optimiser.param_groups, (RATE, NEW_RATE), strict=True):
            group["lr"] = rate * factor
        rows = rng.integers(0, training, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            made = finder(torch.from_numpy(states[rows]).float())
        loss = loss_of(made, objects.of(rows))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0:
            held = slice(training, training + (1000 if step % 500 else None or len(states)))
            said = report(finder, states[held], objects.of(held))
            print(
                f"step {step}, {spent * arguments.minutes:.1f} minutes, loss {np.mean(losses[-100:]):.3f}; {said}", flush=True
            )
    torch.save({"finder": finder.state_dict(), "steps": step}, PATH)


if __name__ == "__main__":
    main()
