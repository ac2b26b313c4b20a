"""Which estimate tells foreign pictures from familiar ones: AUROC of each, for every world and every spoiled copy.

    python -m recipes.trust.compare base    # after recipes.trust.questions; traces are collected once, into build/trust

Familiar are pictures that train the bundle's Selector (fitting) and such that choose its thresholds (judging). What is read:
the features of a trace, and for base what its eyes see (`recipes/base/eyes.py`: mean features, patch states) before that
becomes words. An estimate is fitted on familiar pictures alone, but for `exposed`, which also sees the worlds that fit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.optimize import minimize
from scipy.special import expit

from edge_vqa import metrics
from recipes.base import eyes, photos
from recipes.base.questions import OUT as BASE
from recipes.mini.reliability import OUT as MINI
from recipes.trust.questions import OUT

BUILD = OUT.parent
FAMILIAR = {
    "mini": (MINI / "selector.jsonl", MINI / "calibration.jsonl"),
    "base": (BASE / "selector.jsonl", BASE / "calibration.jsonl"),
}
MOST = 800  # questions of a file, drawn with a fixed seed; of a smaller one all
NEIGHBOUR, PRINCIPAL, RIDGE = 5, 64, 1e-3
Floats = npt.NDArray[np.float64]
Estimate = Callable[[Floats], Floats]  # features [n, d] -> how foreign [n]


def mahalanobis(familiar: Floats, normalised: bool = False) -> Estimate:
    """Squared distance from the mean in units of the covariance (Lee et al., NeurIPS 2018, equation 2, one class);
    normalised: of features of length one (Müller and Hein, ICML 2025)."""

    def ready(x: Floats) -> Floats:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) if normalised else x

    mean = ready(familiar).mean(0)
    values, vectors = np.linalg.eigh(np.cov((ready(familiar) - mean).T))
    values = values.clip(0) + values.sum() * 1e-4 / len(values)
    return lambda x: ((ready(x) - mean) @ vectors) ** 2 @ (1 / values)


def residual(familiar: Floats) -> Estimate:
    """Length of what lies outside of the principal subspace (Wang et al., CVPR 2022, section 4: the residual of ViM)."""
    mean = familiar.mean(0)
    _, vectors = np.linalg.eigh(np.cov((familiar - mean).T))
    rest = vectors[:, : max(1, len(mean) - PRINCIPAL)]
    return lambda x: np.linalg.norm((x - mean) @ rest, axis=1)


def neighbours(familiar: Floats) -> Estimate:
    """Minus the cosine to the fifth nearest (Sun et al., ICML 2022, section 3)."""

    def ready(x: Floats) -> Floats:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    known = ready(familiar)
    return lambda x: -np.partition(ready(x) @ known.T, -NEIGHBOUR, 1)[:, -NEIGHBOUR]


def exposed(familiar: Floats, foreign: Floats) -> Estimate:
    """Logistic regression between familiar and foreign pictures (outlier exposure: Hendrycks et al., ICLR 2019)."""
    mean, scale = familiar.mean(0), familiar.std(0) + 1e-6
    x = (np.concatenate([familiar, foreign]) - mean) / scale
    sign = np.repeat([-1.0, 1.0], [len(familiar), len(foreign)])
    share = np.repeat([0.5 / len(familiar), 0.5 / len(foreign)], [len(familiar), len(foreign)])

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ weights[:-1] + weights[-1])
        slope = -sign * share * expit(-margin)
        ridge = np.append(weights[:-1], 0)
        return float(share @ np.logaddexp(0, -margin) + RIDGE / 2 * ridge @ ridge), np.append(
            slope @ x, slope.sum()
        ) + RIDGE * ridge

    weights = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return lambda x: (x - mean) / scale @ weights[:-1]


def told_apart(familiar: Floats, foreign: Floats) -> float:
    """AUROC: probability that a foreign picture is the more foreign one; ties count half."""
    return metrics.auroc(np.concatenate([familiar, foreign]), np.repeat([0, 1], [len(familiar), len(foreign)]))


def some(questions: Path) -> Path:
    """A questions file beside another one, of `MOST` of its questions."""
    lines = questions.read_text().splitlines(keepends=True)
    path = questions.with_name(f"{questions.stem}_some.jsonl")
    path.write_text("".join(lines if len(lines) <= MOST else Random(0).sample(lines, MOST)))
    return path


def traced(bundle: str, questions: Path) -> Mapping[str, Floats]:
    """The features of traces; collected by the command where they are missing."""
    path = BUILD / f"{bundle}_{questions.parent.parent.name}_{questions.stem}.npz"
    if not path.is_file():
        collect = [str(Path(sys.executable).with_name("edge-vqa-selector")), "collect", bundle, str(questions), "-o", str(path)]
        subprocess.run(collect, check=True)
    stored = np.load(path)
    return {name: stored[f"feature_{name}"].astype(float) for name in ("image", "first_hidden", "answer_hidden")}


def seen(questions: Path) -> Mapping[str, Floats]:
    """What base's eyes make of the pictures of a questions file."""
    session, found = eyes.open_session(eyes.Eyes(), ("mean", "states"), 2), []
    listed = [json.loads(line)["image"] for line in questions.read_text().splitlines()]
    for first in range(0, len(listed), 32):
        pictures = []
        for name in listed[first : first + 32]:
            with Image.open(questions.parent / name) as image:
                bare = Image.new("RGBA", image.size, "white")
                bare.alpha_composite(image.convert("RGBA"))
                pictures.append(photos.whole(bare.convert("RGB")))
        mean, states = (values.astype(float) for values in eyes.look(session, pictures))
        found.append(np.concatenate([np.sqrt(mean.clip(0)), states.mean(1), states.std(1)], 1))
    return {"eyes": np.concatenate(found)}


def estimates(familiar: Floats, foreign: Floats) -> dict[str, Estimate]:
    return {
        "Mahalanobis": mahalanobis(familiar),
        "normalised": mahalanobis(familiar, normalised=True),
        "residual": residual(familiar),
        "neighbours": neighbours(familiar),
        "exposed": exposed(familiar, foreign),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=FAMILIAR)
    bundle = parser.parse_args().bundle
    familiar = [some(path) for path in FAMILIAR[bundle]]
    files = [*familiar, OUT / "fitting.jsonl", OUT / "judging.jsonl", OUT / f"{bundle}_copies_judging.jsonl"]
    BUILD.mkdir(parents=True, exist_ok=True)
    for read in (partial(traced, bundle), *((seen,) if bundle == "base" else ())):
        known, chosen, fitting, *judging = (read(file) for file in files)
        for name in known:
            told = estimates(known[name], fitting[name])
            usual = {how: estimate(chosen[name]) for how, estimate in told.items()}
            print(f"\n| {name} | {' | '.join(told)} |\n|{'---|' * (1 + len(told))}")
            for file, features in zip(files[3:], judging, strict=True):
                kinds = [json.loads(line)["kind"].split(", ")[0] for line in file.read_text().splitlines()]
                for kind in dict.fromkeys(kinds):
                    own = features[name][[one == kind for one in kinds]]
                    cells = (f"{told_apart(usual[how], estimate(own)):.3f}" for how, estimate in told.items())
                    print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
