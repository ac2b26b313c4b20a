"""Our own head on the eyes' mean features: 81 groceries, ten kinds of clothes, and `other`.

python -m recipes.base.heads    # after recipes.base.sights; two minutes; says how often it is right
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.base import eyes
from recipes.base.sights import BUILD, SHOPS, Sights

STEPS, BATCH, RATE, DECAY = 4000, 512, 2e-3, 0.05
PATH = BUILD / "own.pt"


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
    share[-1] = 0.1 * len(y) / torch.bincount(y)[-1] * share[:-1].mean()
    torch.manual_seed(seed)
    scale = x.std(0) + 0.05
    layer = torch.nn.Linear(eyes.WIDTH, len(kinds))
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


if __name__ == "__main__":
    main()
