"""95 % intervals, by bootstrap over pictures: questions on one picture fail together.

Source: the percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3, by clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vqa.metrics import Floats

SEED = 0


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; nan where it is not defined."""

    value: float
    low: float
    high: float


def draws(pictures: npt.ArrayLike, rounds: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Bootstrap over pictures: for each round, how many times each question counts [n]. pictures: the picture of each [n]."""
    _, picture = np.unique(np.asarray(pictures), return_inverse=True)
    count = int(picture.max()) + 1
    for _ in range(rounds):
        yield np.bincount(rng.integers(0, count, count), minlength=count)[picture]


def interval(values: Floats) -> tuple[float, float]:
    """Between the 2.5 and the 97.5 % quantiles of drawn values, of those that are defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def mean(values: Floats, pictures: npt.ArrayLike, rounds: int = 2000) -> Figure:
    """Mean over questions of values [n], with its interval."""
    rng = np.random.default_rng(SEED)
    means = [np.average(values, weights=times) for times in draws(pictures, rounds, rng)]
    return Figure(float(values.mean()), *interval(np.array(means)))
