"""Trains the Selector: an MLP over the trace, binary cross-entropy against the accuracy of the model's own answers.

Source: Dancette et al., CVPR 2023, section 3.2. Early stopping on a validation part that shares no picture with training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_vqa.bundle import write_whole
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import aurc
from selector_onnx.collect import Array, Origin, Traces

WIDTHS = (96, 48)
DROPOUT = 0.3
BATCH = 256


@dataclass(frozen=True, eq=False)
class Trained:
    """A Selector as plain arrays. Inputs in order; mean and scale per input; (weight [out, in], bias [out]) per layer."""

    origin: Origin
    inputs: tuple[str, ...]
    mean: dict[str, Array]
    scale: dict[str, Array]
    layers: tuple[tuple[Array, Array], ...]

    def score(self, features: dict[str, Array]) -> Array:
        """Confidence [n] in plain numpy: what the ONNX graph must agree with."""
        x = np.concatenate([(features[name] - self.mean[name]) / self.scale[name] for name in self.inputs], axis=1)
        for number, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if number < len(self.layers) - 1:
                x = np.maximum(x, 0)
        return np.asarray(1 / (1 + np.exp(-x[:, 0])), np.float32)


def split_by_picture(pictures: npt.NDArray[np.str_], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """A mask [n] of the questions whose pictures fall into the validation part."""
    names = np.unique(pictures)
    chosen = np.random.default_rng(seed).permutation(names)[: max(1, round(share * len(names)))]
    return np.isin(pictures, chosen)


def train(
    traces: Traces,
    *,
    validation: float = 0.15,
    seed: int = 0,
    epochs: int = 200,
    patience: int = 20,
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Trained:
    """Train on traces; the epoch with the lowest validation loss is kept."""
    import torch
    from torch import nn

    if len(traces) < 50 or len(np.unique(traces.picture)) < 10:
        raise EdgeVqaError(
            f"{len(traces)} questions on {len(np.unique(traces.picture))} pictures are too few to train on",
            "collect at least 50 questions on 10 pictures; several hundred work well",
        )
    if float(traces.accuracy.min()) == float(traces.accuracy.max()):
        raise EdgeVqaError("the answers are all right, or all wrong", "add questions that the model gets wrong and right")
    held = split_by_picture(traces.picture, validation, seed)
    inputs = tuple(traces.features)
    mean = {name: traces.features[name][~held].mean(0) for name in inputs}
    scale = {name: traces.features[name][~held].std(0) + np.float32(1e-3) for name in inputs}
    x = torch.from_numpy(
        np.concatenate([(traces.features[name] - mean[name]) / scale[name] for name in inputs], axis=1)
    ).float()
    y = torch.from_numpy(traces.accuracy).float()
    torch.manual_seed(seed)
    sizes = (x.shape[1], *WIDTHS)
    hidden = [part for a, b in zip(sizes, WIDTHS, strict=False) for part in (nn.Dropout(DROPOUT), nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(WIDTHS[-1], 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    loss_of = nn.BCEWithLogitsLoss()
    train_rows, held_rows = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    best, best_state, since = float("inf"), net.state_dict(), 0
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        net.train()
        for rows in train_rows[torch.randperm(len(train_rows), generator=generator)].split(BATCH):
            loss = loss_of(net(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            value = float(loss_of(net(x[held_rows])[:, 0], y[held_rows]))
        progress(epoch + 1, value)
        if value < best - 1e-5:
            best, since = value, 0
            best_state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        else:
            since += 1
            if since >= patience:
                break
    net.load_state_dict(best_state)
    layers = tuple(
        (part.weight.detach().numpy().copy(), part.bias.detach().numpy().copy()) for part in net if isinstance(part, nn.Linear)
    )
    return Trained(traces.origin, inputs, mean, scale, layers)


def report(trained: Trained, traces: Traces, *, validation: float = 0.15, seed: int = 0) -> str:
    """AURC of Selector and MaxProb on the validation part that `train` held out."""
    held = split_by_picture(traces.picture, validation, seed)
    score = trained.score({name: values[held] for name, values in traces.features.items()})
    right = traces.accuracy[held]
    return (
        f"validation part ({int(held.sum())} questions): accuracy {right.mean():.3f},"
        f" AURC Selector {aurc(score, right):.4f}, MaxProb {aurc(traces.maxprob[held], right):.4f}"
    )


def save(trained: Trained, path: Path) -> None:
    """Write an .npz under a temporary name, then rename it."""
    arrays: dict[str, Array] = {}
    for name in trained.inputs:
        arrays[f"mean_{name}"], arrays[f"scale_{name}"] = trained.mean[name], trained.scale[name]
    for number, (weight, bias) in enumerate(trained.layers):
        arrays[f"weight_{number}"], arrays[f"bias_{number}"] = weight, bias
    header = {"origin": asdict(trained.origin), "inputs": trained.inputs, "layers": len(trained.layers)}
    write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, header=np.array(json.dumps(header)), **arrays))


def load(path: Path) -> Trained:
    """Read what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            inputs = tuple(header["inputs"])
            return Trained(
                origin=Origin(**header["origin"]),
                inputs=inputs,
                mean={name: stored[f"mean_{name}"] for name in inputs},
                scale={name: stored[f"scale_{name}"] for name in inputs},
                layers=tuple((stored[f"weight_{i}"], stored[f"bias_{i}"]) for i in range(header["layers"])),
            )
    except FileNotFoundError:
        raise EdgeVqaError(f"{path} does not exist", "make it with edge-vqa-selector train") from None
    except Exception:
        raise EdgeVqaError(f"{path} holds no trained Selector", "make it with edge-vqa-selector train") from None
