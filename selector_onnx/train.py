"""Trains the Selector: a small estimator over the trace, against the VQA accuracy of the model's own answers.

Source: Dancette et al., CVPR 2023, section 3.2: binary cross-entropy, graded targets. Hidden states are first projected to a
few principal directions, so that a few hundred questions suffice and the graph stays small whatever the LM's width.

Cross-fitting: the pictures are cut into folds, and a member is trained for each, which never sees it. Every question so gets a
confidence from a member that did not learn from it (`Fit.confidence`); the Selector is the mean of the members. Which of
`CANDIDATES` it is, from a logistic regression to an MLP, the folds decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa import metrics
from edge_vqa.border.whole import write_whole
from edge_vqa.bundles.manifest import Temperature
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import Floats
from edge_vqa.trust import intervals
from edge_vqa.trust.confidence import Selector, SelectorEarly, TemperatureScaling, logit
from edge_vqa.trust.estimator import Features
from edge_vqa.trust.trace import EARLY, SELECTED
from selector_onnx.collect import Array, Origin, Traces, take

if TYPE_CHECKING:
    from torch import nn

FOLDS = 5
LEAST = 40  # questions, and a quarter as many pictures
PROJECTED_BYTES = 700_000  # at most, of all projections in float32
DRAWS = 1000  # bootstrap
Layers: TypeAlias = tuple[tuple[Array, Array], ...]
Rows: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Candidate:
    """directions: principal directions kept of each hidden state; widths: of the hidden layers, none for a logistic
    regression; decay: its ridge penalty, or the MLP's weight decay; questions: below so many it is not tried."""

    name: str
    directions: int
    widths: tuple[int, ...]
    decay: float
    questions: int = 0


CANDIDATES = (
    Candidate("logistic, statistics only", 0, (), 0.01),
    Candidate("logistic, 4 directions", 4, (), 0.01),
    Candidate("logistic, 8 directions", 8, (), 0.01),
    Candidate("logistic, 16 directions", 16, (), 0.01, 500),
    Candidate("MLP, 16 directions", 16, (32, 16), 0.05, 500),
    Candidate("MLP, 64 directions", 64, (96, 48), 0.05, 2000),
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A Selector as plain arrays. projections: for each input, in order, weight [k, d] and bias [k] (normalisation folded
    in); members: (weight [out, in], bias [out]) per layer, ReLU between, sigmoid behind; the mean of the members counts."""

    origin: Origin
    projections: dict[str, tuple[Array, Array]]
    members: tuple[Layers, ...]

    @property
    def method(self) -> str:
        """Name of the confidence method that it serves."""
        return SelectorEarly.name if set(self.projections) <= set(EARLY) else Selector.name

    def score_features(self, features: Features) -> Array:
        """Confidence [n] in plain numpy: what the ONNX graph must agree with."""
        x = project(self.projections, features)
        return np.asarray(np.mean([_member(layers, x) for layers in self.members], axis=0), np.float32)


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of training. confidence [n]: out of fold, of the Selector; temperature_confidence [n]: likewise, of the
    calibrated MaxProb. losses: mean cross-entropy out of fold, by candidate. better: 95 % interval of how much lower the
    Selector's AURC is than the calibrated MaxProb's, both out of fold, over pictures."""

    trained: Trained
    temperature: Temperature
    traces: Traces
    confidence: Array
    temperature_confidence: Array
    losses: dict[str, float]
    better: tuple[float, float]

    @property
    def selector_pays(self) -> bool:
        """Whether the Selector is significantly better than the calibrated MaxProb; if not, the latter is the safer choice."""
        return self.better[0] > 0

    @property
    def aurc(self) -> tuple[float, float]:
        """Of the Selector and of the calibrated MaxProb, out of fold."""
        accuracy = self.traces.accuracy
        return metrics.aurc(self.confidence, accuracy), metrics.aurc(self.temperature_confidence, accuracy)

    @property
    def chosen(self) -> str:
        return min(self.losses, key=lambda name: self.losses[name])


def project(projections: dict[str, tuple[Array, Array]], features: Features) -> Array:
    """Features [n, d] by name -> [n, sum of k]."""
    return np.concatenate([features[name] @ weight.T + bias for name, (weight, bias) in projections.items()], axis=1)


def forward(layers: Layers, x: Array) -> Array:
    """Logits [n] of linear layers with ReLU between, from x [n, d]."""
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if number < len(layers) - 1:
            x = np.maximum(x, 0)
    return np.asarray(x[:, 0], np.float32)


def _member(layers: Layers, x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-forward(layers, x).astype(np.float64))), np.float32)


def fold_of(pictures: npt.NDArray[np.str_], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """A fold number [n] for every question; questions on one picture share theirs."""
    _, number = np.unique(pictures, return_inverse=True)
    order = np.random.default_rng(seed).permutation(number.max() + 1)
    return np.asarray(order[number] % folds, np.int64)


def usable(traces: Traces) -> Traces:
    """The traces whose features are all finite. Raises EdgeVqaError when too few are left, or nothing can be learned."""
    finite = np.isfinite(traces.maxprob)
    for values in traces.features.values():
        finite &= np.isfinite(values).all(axis=1)
    if not finite.any():
        raise EdgeVqaError("every trace holds values that are no numbers", "check the bundle: edge-vqa models verify")
    traces = take(traces, finite)
    pictures = len(np.unique(traces.picture))
    if len(traces) < LEAST or pictures < LEAST // 4:
        raise EdgeVqaError(
            f"{len(traces)} questions on {pictures} pictures are too few to train on",
            f"collect at least {LEAST} questions on {LEAST // 4} pictures; several hundred work well",
        )
    if float(traces.accuracy.min()) == float(traces.accuracy.max()):
        raise EdgeVqaError("the answers are all right, or all wrong", "add questions that the model gets wrong and right")
    return traces


def train(
    traces: Traces,
    *,
    inputs: Sequence[str] | None = None,
    candidates: Sequence[Candidate] = CANDIDATES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Cross-fit every candidate, keep the one with the lowest loss out of fold. inputs: names of features (`SELECTED`).

    progress: members trained, of how many. Deterministic for a seed on one machine. Raises EdgeVqaError (see `usable`).
    """
    traces = usable(traces)
    fold, accuracy = fold_of(traces.picture, FOLDS, seed), traces.accuracy
    if len(np.unique(fold)) < FOLDS:
        raise EdgeVqaError("the questions are on too few pictures", "collect questions on more pictures")
    names = tuple(inputs or SELECTED)
    statistics = any("statistics" in name for name in names)  # a candidate without directions reads nothing else
    tried = [c for c in candidates if len(traces) >= c.questions and (c.directions or statistics)]
    found: dict[str, tuple[Trained, Array]] = {}
    losses: dict[str, float] = {}
    for number, candidate in enumerate(tried):
        projections = _projections(traces.features, names, candidate.directions, whiten=not candidate.widths)
        x = project(projections, traces.features)
        members, confidence = [], np.empty(len(traces), np.float32)
        for own in range(FOLDS):
            held, stop = np.flatnonzero(fold == own), np.flatnonzero(fold == (own + 1) % FOLDS)
            rest = np.flatnonzero(fold != own)
            layers = (
                _mlp(x, accuracy, np.setdiff1d(rest, stop), stop, candidate, seed + own)
                if candidate.widths
                else _logistic(x[rest], accuracy[rest], candidate.decay)
            )
            members.append(layers)
            confidence[held] = _member(layers, x[held])
            progress(number * FOLDS + own + 1, len(tried) * FOLDS)
        losses[candidate.name] = cross_entropy(confidence, accuracy)
        found[candidate.name] = Trained(traces.origin, projections, tuple(members)), confidence
    trained, confidence = found[min(losses, key=lambda name: losses[name])]
    scaled = np.empty(len(traces), np.float32)
    for own in range(FOLDS):
        held = fold == own
        scaled[held] = TemperatureScaling(fit_temperature(take(traces, ~held))).score_features(take(traces, held).features)
    better = better_by(confidence, scaled, traces, seed)
    return Fit(trained, fit_temperature(traces), traces, confidence, scaled, losses, better)


def cross_entropy(confidence: Array, accuracy: Array) -> float:
    c = confidence.astype(np.float64).clip(1e-6, 1 - 1e-6)
    return float(-np.mean(accuracy * np.log(c) + (1 - accuracy) * np.log(1 - c)))


def fit_temperature(traces: Traces) -> Temperature:
    """scale and bias with the lowest cross-entropy; a weak pull to (1, 0) keeps them finite."""
    weights = _logistic_weights(logit(traces.features)[:, None], traces.accuracy, 1e-3, np.array([0.0, 1.0]))
    return Temperature(scale=float(weights[1]), bias=float(weights[0]))


def _projections(features: Features, names: Sequence[str], directions: int, *, whiten: bool) -> dict[str, tuple[Array, Array]]:
    """Inputs -> weight and bias that normalise, and for hidden states project to principal directions.

    whiten: all directions get one spread, as a ridge penalty wants it; an MLP learns better when the later ones stay small.
    """
    wide = [name for name in names if "statistics" not in name]
    if wide:
        directions = min(directions, PROJECTED_BYTES // (4 * sum(features[name].shape[1] for name in wide)))
    found = {}
    for name in names:
        values = features[name]
        mean, scale = values.mean(0), values.std(0) + np.float32(1e-3)
        weight = np.diag(1 / scale)
        if name in wide:
            if not directions:
                continue
            normal = (values - mean) / scale
            along = principal_directions(normal, min(directions, *normal.shape))  # [d, k]
            spread = (normal @ along).std(0 if whiten else None) + 1e-3
            weight = (along / spread).T / scale
        found[name] = np.asarray(weight, np.float32), np.asarray(-(weight @ mean), np.float32)
    return found


def principal_directions(x: Array, k: int) -> Array:
    """The first k principal directions [d, k] of centred rows [n, d]."""
    from scipy.linalg import eigh

    n, d = x.shape
    if d <= n:
        return np.asarray(eigh(x.T @ x, subset_by_index=[d - k, d - 1])[1][:, ::-1], np.float32)
    values, vectors = eigh(x @ x.T, subset_by_index=[n - k, n - 1])
    return np.asarray((x.T @ vectors / np.sqrt(np.maximum(values, 1e-9)))[:, ::-1], np.float32)


def _logistic(x: Array, y: Array, decay: float) -> Layers:
    weights = _logistic_weights(x.astype(np.float64), y, decay, np.zeros(x.shape[1] + 1))
    return ((np.asarray(weights[None, 1:], np.float32), np.asarray(weights[:1], np.float32)),)


def _logistic_weights(x: Floats, y: Array, decay: float, around: Floats) -> Floats:
    """Bias and weights [1 + d] of a logistic regression with a ridge penalty on their distance from `around`."""
    from scipy.optimize import minimize

    def loss(w: Floats) -> tuple[float, Floats]:
        z = x @ w[1:] + w[0]
        p = 1 / (1 + np.exp(-z))
        away = w - around
        value = np.mean(np.logaddexp(0, z) - y * z) + decay * (away[1:] ** 2).sum()
        slope = np.concatenate([[np.mean(p - y)], x.T @ (p - y) / len(y) + 2 * decay * away[1:]])
        return float(value), slope

    found: Floats = minimize(loss, around, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return found


DROPOUT, BATCH, EPOCHS, PATIENCE = (0.3, 0.4, 0.4), 256, 120, 15


def _mlp(x: Array, y: Array, rows: Rows, stop: Rows, candidate: Candidate, seed: int) -> Layers:
    """Trains on `rows`; the epoch with the lowest loss on `stop` is kept."""
    import torch
    from torch import nn

    torch.set_num_threads(1)  # nets this small are no slower for it, and come out the same on any number of cores
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data, target = torch.from_numpy(x), torch.from_numpy(y).float()
    sizes = (x.shape[1], *candidate.widths)
    hidden = [
        part
        for a, b, share in zip(sizes, candidate.widths, DROPOUT, strict=False)
        for part in (nn.Dropout(share), nn.Linear(a, b), nn.ReLU())
    ]
    net = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=candidate.decay)
    loss_of = nn.BCEWithLogitsLoss()
    train_rows, stop_rows = torch.from_numpy(rows), torch.from_numpy(stop)
    batch = min(BATCH, max(32, len(rows) // 16))
    best, best_state, since = float("inf"), net.state_dict(), 0
    for _ in range(EPOCHS):
        net.train()
        for part in train_rows[torch.randperm(len(train_rows), generator=generator)].split(batch):
            loss = loss_of(net(data[part])[:, 0], target[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            value = float(loss_of(net(data[stop_rows])[:, 0], target[stop_rows]))
        since += 1
        if value < best - 1e-5:
            best, since = value, 0
            best_state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        if since >= PATIENCE:
            break
    net.load_state_dict(best_state)
    return layers_of(net)


def layers_of(net: nn.Sequential) -> Layers:
    """The linear layers as plain arrays."""
    from torch import nn

    linear = [part for part in net if isinstance(part, nn.Linear)]
    return tuple((part.weight.detach().numpy().copy(), part.bias.detach().numpy().copy()) for part in linear)


def better_by(confidence: Array, other: Array, traces: Traces, seed: int) -> tuple[float, float]:
    """95 % interval of AURC(other) - AURC(confidence), pictures drawn with replacement."""
    rng, accuracy = np.random.default_rng(seed), traces.accuracy
    orders = [np.argsort(-values, kind="stable") for values in (confidence, other)]
    differences = []
    for times in intervals.draws(traces.picture, DRAWS if len(traces) <= 5000 else DRAWS // 5, rng):
        rows = [np.repeat(order, times[order]) for order in orders]
        mine, theirs = (metrics.aurc(c[r], accuracy[r]) for c, r in zip((confidence, other), rows, strict=True))
        differences.append(theirs - mine)
    return intervals.interval(np.array(differences))


def save(trained: Trained, path: Path) -> None:
    """Write an .npz under a temporary name, then rename it."""
    arrays: dict[str, Array] = {}
    for name, (weight, bias) in trained.projections.items():
        arrays[f"weight_{name}"], arrays[f"bias_{name}"] = weight, bias
    for number, layers in enumerate(trained.members):
        for depth, (weight, bias) in enumerate(layers):
            arrays[f"weight_{number}_{depth}"], arrays[f"bias_{number}_{depth}"] = weight, bias
    header = {
        "origin": asdict(trained.origin),
        "inputs": list(trained.projections),
        "layers": [len(layers) for layers in trained.members],
    }
    write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, header=np.array(json.dumps(header)), **arrays))


def load(path: Path) -> Trained:
    """Read what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            return Trained(
                origin=Origin(**header["origin"]),
                projections={name: (stored[f"weight_{name}"], stored[f"bias_{name}"]) for name in header["inputs"]},
                members=tuple(
                    tuple((stored[f"weight_{n}_{i}"], stored[f"bias_{n}_{i}"]) for i in range(depth))
                    for n, depth in enumerate(header["layers"])
                ),
            )
    except FileNotFoundError:
        raise EdgeVqaError(f"{path} does not exist", "make it with edge-vqa-selector train") from None
    except Exception:
        raise EdgeVqaError(f"{path} holds no trained Selector", "make it with edge-vqa-selector train") from None
