"""Learns how familiar a picture is, from pictures that will be asked about and from foreign ones. No labels are needed.

Several estimates read what is known of a picture, because each is blind to something:

- exposed: a small MLP between familiar and foreign pictures (outlier exposure: Hendrycks, Mazeika and Dietterich, ICLR 2019).
  It tells best, and what is bland or drawn, which lies near the middle of everything, only it tells;
- two squared Mahalanobis distances (Lee et al., NeurIPS 2018, equation 2), of what the tower says and of the pixel statistics,
  where there is room in the full covariance, else in principal directions and one variance for the others (probabilistic PCA:
  Tipping and Bishop 1999). They tell what lies far off in a direction that no foreign picture showed.

Each becomes a normal score: of familiar pictures that it was not fitted to, how many are as strange or stranger. A weighted sum
of these (Stouffer 1949), in which nothing counts as more than usual, becomes a share in the same way. So the number means the
same for every bundle: of pictures like those that it was fitted to, a share f has a familiarity below f (a conformal p-value:
Vovk, Gammerman and Shafer 2005, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust.estimator import Features
from selector_onnx.collect import Array, Origin, Traces, take
from selector_onnx.train import Layers, fold_of, forward, layers_of, principal_directions

LEAST = 100  # pictures
MEMBERS, WIDTH = 3, 64  # of the MLP
WEIGHTS_EACH = 110_000  # at most, of the first layers of the MLP, and of a distance
STEPS, BATCH, DROPOUT = 1000, 128, (0.2, 0.3)
FLOOR, FAR = 0.25, 8.0  # least scale of a feature, in medians of those of its input; what lies further counts as so far
NARROW = 0.01  # added to the variance along every axis: where familiar pictures never differ, a hair does not count
WEIGHTS = (1.0, 0.5, 0.5)  # of the exposed estimate and of the distances in the sum
# shares at which a distribution is remembered: densely where pictures are refused; and the normal scores there
SHARES = (
    *(0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3),
    *(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
STRANGEST, USUAL = 0.0003, 0.7  # shares beyond which a score stays what it is
SCORES = tuple(NormalDist().inv_cdf(min(max(share, STRANGEST), USUAL)) for share in SHARES)


@dataclass(frozen=True, eq=False)
class Ladder:
    """Straight lines between `knots`, strictly ascending, at which it takes `values`; flat beyond."""

    knots: Array
    values: Array

    def __call__(self, x: Array) -> Array:
        steps = ((x[:, None] - self.knots[:-1]) / np.diff(self.knots)).clip(0, 1)
        return np.asarray(self.values[0] + steps @ np.diff(self.values), np.float32)


@dataclass(frozen=True, eq=False)
class Scale:
    """Makes features comparable: (x - middle) / spread, at most FAR from 0."""

    middle: Array
    spread: Array

    def __call__(self, x: Array) -> Array:
        return np.asarray(((x - self.middle) / self.spread).clip(-FAR, FAR), np.float32)


@dataclass(frozen=True, eq=False)
class Distance:
    """Squared Mahalanobis distance of scaled features: gains [k] for the squares along axes [k, d], gain for all squares."""

    axes: Array
    gains: Array
    gain: float

    def __call__(self, z: Array) -> Array:
        return np.asarray(((z @ self.axes.T) ** 2) @ self.gains + (z * z).sum(1) * np.float32(self.gain), np.float32)


@dataclass(frozen=True, eq=False)
class Learned:
    """Familiarity as plain arrays. scales: by input, in order; members: layers of each MLP, which reads all inputs side by
    side; distances: by input. ladders: of the exposed estimate, of the distances (negative), and of the sum. n, foreign:
    pictures that it was fitted to."""

    origin: Origin
    scales: dict[str, Scale]
    members: tuple[Layers, ...]
    distances: dict[str, Distance]
    ladders: tuple[Ladder, ...]
    n: int
    foreign: int

    def score_features(self, features: Features) -> Array:
        """Familiarity [n] in plain numpy: what the ONNX graph must agree with."""
        z = {name: scale(features[name]) for name, scale in self.scales.items()}
        side_by_side = np.concatenate(list(z.values()), axis=1)
        exposed = np.mean([forward(member, side_by_side) for member in self.members], axis=0)
        estimates = [exposed, *(-distance(z[name]) for name, distance in self.distances.items())]
        *ladders, last = self.ladders
        return last(total([ladder(values) for ladder, values in zip(ladders, estimates, strict=True)]))


def total(scores: Sequence[Array]) -> Array:
    return np.asarray(sum(weight * score for weight, score in zip(WEIGHTS, scores, strict=True)), np.float32)


def inputs_of(traces: Traces) -> tuple[str, ...]:
    """What is read: what the tower says of a picture beside its tokens, else the tokens; and the pixel statistics."""
    own = ("summary",) if "summary" in traces.features else ("image", "image_spread")
    return (*own, "pixels")


def one_a_picture(traces: Traces) -> Traces:
    """The first trace of each picture, of those whose features are numbers."""
    finite = np.all([np.isfinite(traces.features[name]).all(1) for name in inputs_of(traces)], axis=0)
    rows = np.flatnonzero(finite)
    _, first = np.unique(traces.picture[rows], return_index=True)
    return take(traces, np.sort(rows[first]))


def learn(familiar: Traces, foreign: Sequence[Traces], *, weights: int = WEIGHTS_EACH, seed: int = 0) -> Learned:
    """Cross-fitted over pictures: shares are those of pictures that an estimate was not fitted to. foreign: one or more sorts
    of pictures, each of which counts as much as the others. weights: at most, of the MLP's first layers, and of each distance.
    Raises EdgeVqaError where there are too few pictures.
    """
    familiar, foreign = one_a_picture(familiar), [one_a_picture(traces) for traces in foreign]
    if len(familiar) < LEAST:
        raise EdgeVqaError(
            f"{len(familiar)} pictures are too few to judge how familiar one is",
            f"{LEAST} would do, several hundred are better",
        )
    names = inputs_of(familiar)
    scales = {name: _scale(familiar.features[name]) for name in names}
    known = {name: scale(familiar.features[name]) for name, scale in scales.items()}
    x = np.concatenate(list(known.values()), axis=1)
    others = [np.concatenate([scales[name](traces.features[name]) for name in names], axis=1) for traces in foreign]
    measured = (names[0], "pixels")
    fold = fold_of(familiar.picture, MEMBERS, seed)
    held_out = np.empty((1 + len(measured), len(x)), np.float32)
    members = []
    for own in range(MEMBERS):
        held = fold == own
        members.append(_expose(x[~held], others, weights, seed + own))
        held_out[0, held] = forward(members[-1], x[held])
        for row, name in enumerate(measured, 1):
            held_out[row, held] = -_distance(known[name][~held], weights)(known[name][held])
    ladders = [_ladder(values, SCORES, 2 * SCORES[0]) for values in held_out]
    summed = total([ladder(values) for ladder, values in zip(ladders, held_out, strict=True)])
    return Learned(
        origin=familiar.origin,
        scales=scales,
        members=tuple(members),
        distances={name: _distance(known[name], weights) for name in measured},
        ladders=(*ladders, _ladder(summed, SHARES)),
        n=len(x),
        foreign=sum(map(len, others)),
    )


def _ladder(values: Array, at: Sequence[float], below: float | None = None) -> Ladder:
    """Knots at the quantiles `SHARES`, strictly ascending. below: value at a knot as far below the strangest familiar picture
    as that is below the usual ones."""
    knots = np.quantile(values.astype(np.float64), SHARES)
    if below is not None:
        knots, at = np.insert(knots, 0, 2 * knots[0] - knots[SHARES.index(0.5)]), (below, *at)
    least = 1e-5 * max(float(np.abs(knots).max()), 1e-3)  # which float32 still tells apart
    for n in range(1, len(knots)):
        knots[n] = max(knots[n], knots[n - 1] + least)
    return Ladder(np.asarray(knots, np.float32), np.asarray(at, np.float32))


def _scale(x: Array) -> Scale:
    """A feature that hardly changes among familiar pictures is no measure of them."""
    spread = x.std(0)
    return Scale(x.mean(0), np.maximum(spread, np.float32(max(FLOOR * float(np.median(spread)), 1e-6))))


def _distance(z: Array, weights: int) -> Distance:
    n, d = z.shape
    k = max(1, min(d - 1, n // 5, weights // d))
    axes = principal_directions(z, k)
    along = ((z @ axes) ** 2).mean(0)
    rest = max(float((z * z).sum(1).mean() - along.sum()) / (d - k), 0.0) + NARROW
    return Distance(np.ascontiguousarray(axes.T), np.asarray(1 / (along + NARROW) - 1 / rest, np.float32), 1 / rest)


def _expose(familiar: Array, foreign: Sequence[Array], weights: int, seed: int) -> Layers:
    """An MLP between the two, each batch one half familiar, the other of all sorts of foreign pictures alike."""
    import torch
    from torch import nn

    torch.set_num_threads(1)  # see `train`
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    known, others = torch.from_numpy(familiar), [torch.from_numpy(x) for x in foreign]
    d = familiar.shape[1]
    width = max(4, min(WIDTH, weights // (MEMBERS * d)))
    net = nn.Sequential(nn.Dropout(DROPOUT[0]), nn.Linear(d, width), nn.ReLU(), nn.Dropout(DROPOUT[1]), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    each = -(-BATCH // len(others))
    target = torch.cat([torch.ones(BATCH), torch.zeros(each * len(others))])
    weight = torch.cat([torch.full((BATCH,), 1 / BATCH), torch.full((each * len(others),), 1 / (each * len(others)))])

    def drawn(rows: torch.Tensor, count: int) -> torch.Tensor:
        return rows[torch.randint(len(rows), (count,), generator=generator)]

    for _ in range(STEPS):
        x = torch.cat([drawn(known, BATCH), *(drawn(rows, each) for rows in others)])
        losses = nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], target, reduction="none")
        optimizer.zero_grad()
        (losses @ weight).backward()
        optimizer.step()
        schedule.step()
    return layers_of(net)
