"""Our own heads: on the eyes' mean features 81 groceries, ten kinds of clothes, and `other`; on the mini's patch states the
colour of the middle.

python -m recipes.base.heads    # after recipes.base.sights; two minutes; says how often it is right
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.base import eyes
from recipes.base.sights import BUILD, SHOPS, Sights
from recipes.mini.train import easy_questions

STEPS, BATCH, RATE, DECAY = 4000, 512, 2e-3, 0.05
PATH, COLOURS = BUILD / "own.pt", BUILD / "colours.pt"
SQUARE = 8  # patches a side


class Own:
    """Mean features [n, WIDTH] -> probabilities [n, kinds], of which the last is `other`."""

    def __init__(self, stored: dict[str, object]) -> None:
        self.weight, self.bias = stored["weight"], stored["bias"]
        self.kinds: list[str] = stored["kinds"]

    @staticmethod
    def load() -> Own:
        return Own(torch.load(PATH))

    def __call__(self, mean: Tensor) -> Tensor:
        return functional.linear(mean, self.weight, self.bias).softmax(-1)


class Colours(Own):
    """Patch states [n, PATCHES, STATE] -> probabilities [n, colours] of what fills the middle."""

    @staticmethod
    def load() -> Colours:
        return Colours(torch.load(COLOURS))

    def __call__(self, states: Tensor) -> Tensor:
        return super().__call__(middle(states))


def middle(states: Tensor) -> Tensor:
    """The mean state of the middle 4 x 4 patches, and of all: [n, 2 * STATE]."""
    square = states.reshape(-1, SQUARE, SQUARE, eyes.STATE)
    inner = square[:, SQUARE // 4 : -SQUARE // 4, SQUARE // 4 : -SQUARE // 4].mean((1, 2))
    return torch.cat([inner, square.mean((1, 2))], -1)


def coloured(sights: dict[str, Sights]) -> tuple[Tensor, list[str]]:
    """(features, colours) of all training pictures of which the colour is known: photos of shops, shapes of easy-VQA."""
    features, names = [], []
    asked = easy_questions("train")
    for name in (*SHOPS, "easy"):
        seen = sights[name]
        for number in seen.of("train"):
            about = seen.about[number]
            answers = [answer for kind, _, answer in asked[about["easy"]] if kind.endswith("colour")] if name == "easy" else []
            if colour := (answers or [about.get("thing", {}).get("colour", "")])[0]:
                features.append(middle(torch.from_numpy(seen.states[number].astype(np.float32)))[0])
                names.append(colour)
    return torch.stack(features), names


def gather(sights: dict[str, Sights], kinds: list[str], part: str) -> tuple[Tensor, Tensor]:
    """Features and kinds of a part; drawn pictures and free photos are `other`."""
    features, labels = [], []
    for name, seen in sights.items():
        numbers = seen.of(part)
        features.append(seen.mean[numbers].astype(np.float32))
        known = [kinds.index(seen.about[n]["kind"]) if name in SHOPS else len(kinds) - 1 for n in numbers]
        labels.append(np.array(known, np.int64))
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(labels))


def train(x: Tensor, y: Tensor, kinds: list[str], decay: float = DECAY, seed: int = 0) -> dict[str, object]:
    """Logistic regression; rare kinds count more, `other` as much as a tenth of all."""
    share = torch.bincount(y, minlength=len(kinds)).float().clamp_min(1).rsqrt()
    if kinds[-1] == "other":
        share[-1] = 0.1 * len(y) / torch.bincount(y)[-1] * share[:-1].mean()
    torch.manual_seed(seed)
    scale = x.std(0) + 0.05
    layer = torch.nn.Linear(x.shape[1], len(kinds))
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        batch = functional.dropout(x[rows] / scale, 0.2)
        loss = functional.cross_entropy(layer(batch), y[rows], weight=share, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {"weight": layer.weight.detach() / scale, "bias": layer.bias.detach(), "kinds": kinds}


def report(head: Own, name: str, seen: Sights, part: str) -> str:
    numbers = seen.of(part)
    said = [head.kinds[n] for n in head(torch.from_numpy(seen.mean[numbers].astype(np.float32))).argmax(-1)]
    coarse = {one["kind"]: one["thing"]["name"] for one in seen.about}
    true = [seen.about[n]["kind"] for n in numbers]
    fine = np.mean([a == b for a, b in zip(said, true, strict=True)])
    wide = np.mean([coarse.get(a, a) == coarse[b] for a, b in zip(said, true, strict=True)])
    return f"{name} {part}, {len(numbers)} photos: {fine:.1%} fine, {wide:.1%} coarse"


def main() -> None:
    names = [path.stem for path in BUILD.glob("*.jsonl")]
    sights = {name: Sights.load(name) for name in names}
    kinds = [*sorted({one["kind"] for name in SHOPS for one in sights[name].about}), "other"]
    head = Own(train(*gather(sights, kinds, "train"), kinds))
    torch.save({"weight": head.weight, "bias": head.bias, "kinds": head.kinds}, PATH)
    for name in SHOPS:
        for part in ("dev", "test"):
            print(report(head, name, sights[name], part))
    x, names = coloured(sights)
    kinds = sorted(set(names))
    y = torch.tensor([kinds.index(name) for name in names])
    torch.save(train(x, y, kinds), COLOURS)
    print(f"colours: {', '.join(kinds)}; {len(names)} pictures")
    colours = Colours.load()
    for name in SHOPS:
        numbers = [n for n in sights[name].of("dev") if sights[name].about[n]["thing"]["colour"]]
        said = colours(torch.from_numpy(sights[name].states[numbers].astype(np.float32))).argmax(-1)
        right = [kinds[place] == sights[name].about[n]["thing"]["colour"] for place, n in zip(said, numbers, strict=True)]
        print(f"{name} dev, {len(numbers)} photos of one colour: {np.mean(right):.1%}")


if __name__ == "__main__":
    main()
