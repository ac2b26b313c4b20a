"""Which estimate tells foreign pictures from familiar ones: AUROC of each, for every set that judges.

    python -m recipes.trust.compare mini|base [--looks]    # after recipes/trust/gate.sh

Each reads one kind of features of a trace, and is fitted on the pictures that train the bundle's Selector alone; but for
`exposed` (and `relative`, whose background they are), which also see the foreign pictures that fit. `learned` is what ships.
Familiar are the bundle's own test pictures. --looks: also ask again about a part of the picture, and in other words, and go by
what changes: twice the time of every question.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.optimize import minimize
from scipy.special import expit

from edge_vqa import metrics
from edge_vqa.bundles import store
from edge_vqa.model import Model, load
from edge_vqa.trust import familiarity
from edge_vqa.trust.trace import FIRST
from edge_vqa.work import questions as files
from recipes.base.questions import OUT as BASE
from recipes.mini.reliability import OUT as MINI
from recipes.trust import foreign
from recipes.trust.measure import BUNDLES, SETS, TRACES, familiar_only, own_traces
from recipes.trust.questions import OUT
from selector_onnx import collect
from selector_onnx.collect import Traces
from selector_onnx.familiarity import one_a_picture

NEIGHBOUR, PRINCIPAL, RIDGE = 5, 64, 1e-3
MOST = 3000  # familiar pictures that an estimate is fitted on
LOOKS = 100  # questions of a set that are asked again
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


def relative(familiar: Floats, background: Floats) -> Estimate:
    """The distance less that from a background of all pictures (Ren et al. 2021, arXiv 2106.09022, equation 2)."""
    near, far = mahalanobis(familiar), mahalanobis(np.concatenate([familiar, background]))
    return lambda x: near(x) - far(x)


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


def estimates(familiar: Floats, foreign: Floats) -> dict[str, Estimate]:
    return {
        "Mahalanobis": mahalanobis(familiar),
        "normalised": mahalanobis(familiar, normalised=True),
        "relative": relative(familiar, foreign),
        "residual": residual(familiar),
        "neighbours": neighbours(familiar),
        "exposed": exposed(familiar, foreign),
    }


def of_feature(feature: str, estimate: Estimate) -> Callable[[Traces], Floats]:
    return lambda traces: estimate(traces.features[feature].astype(float))


def judging(name: str) -> Iterator[tuple[str, Traces]]:
    for one in SETS:
        if (name, one) != ("base", "photos_everyday"):  # which it is made for
            yield one, one_a_picture(collect.load(TRACES / name / f"{one}.npz"))


def table(title: str, told: dict[str, Callable[[Traces], Floats]], own: Traces, name: str) -> None:
    """told: how foreign each trace is [n], by estimate."""
    usual = {how: estimate(own) for how, estimate in told.items()}
    print(f"\n| {title} | {' | '.join(told)} |\n|{'---|' * (1 + len(told))}")
    for one, traces in judging(name):
        cells = (f"{told_apart(usual[how], estimate(traces)):.3f}" for how, estimate in told.items())
        print(f"| {one.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


def changes(name: str, sets: dict[str, Path]) -> None:
    """What changes when a question is asked about nine tenths of the picture, and in other words: the answer, then MaxProb."""

    def changed(model: Model, path: Path) -> tuple[Floats, Floats]:
        found = []
        for question in files.read(path)[:LOOKS]:
            with Image.open(question.image) as opened:
                image = opened.convert("RGB")
            part = image.crop((image.width // 10, image.height // 10, image.width, image.height))
            whole, again, otherwise = (
                model.ask(shown, asked, gate=False)
                for shown, asked in (
                    (image, question.question),
                    (part if min(part.size) > 0 else image, question.question),
                    (image, f"please tell me: {question.question}"),
                )
            )
            found.append([(a.candidate != whole.candidate) + abs(a.maxprob - whole.maxprob) for a in (again, otherwise)])
        looks, words = np.array(found).T
        return looks, words

    print("\n| what changes | part of the picture | other words |\n|---|---|---|")
    with load(BUNDLES[name], confidence="maxprob") as model:
        usual = changed(model, {"mini": MINI / "mix_test.jsonl", "base": BASE / "others_test.jsonl"}[name])
        for one, path in sets.items():
            cells = (f"{told_apart(a, b):.3f}" for a, b in zip(usual, changed(model, path), strict=True))
            print(f"| {one.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=BUNDLES)
    parser.add_argument("--looks", action="store_true", help="ask again, too")
    arguments = parser.parse_args()
    name = arguments.bundle
    bundle = store.read(BUNDLES[name])
    rng = np.random.default_rng(0)
    known = one_a_picture(collect.load(TRACES / name / "familiar.npz"))
    known = collect.take(known, rng.permutation(len(known))[:MOST])
    sorts = ("nothing", "drawn", "spoiled", *(["photos"] if name == "mini" else []))
    fitting = one_a_picture(collect.join([collect.load(TRACES / name / f"{sort}.npz") for sort in sorts]))
    fitting = collect.take(fitting, rng.permutation(len(fitting))[:MOST])
    own = one_a_picture(familiar_only(name, own_traces(name, bundle, "own test questions")))
    learned = familiarity.of(bundle)
    assert learned is not None
    first = {how: FIRST.index(f"first_{how}") for how in ("logprob", "entropy", "margin")}
    gate = {
        "learned": lambda t: -learned.score_features(t.features).astype(float),
        "MaxProb": lambda t: -t.maxprob.astype(float),
        "first token: log p": lambda t: -t.features["first_statistics"][:, first["logprob"]].astype(float),
        "entropy": lambda t: t.features["first_statistics"][:, first["entropy"]].astype(float),
        "margin": lambda t: -t.features["first_statistics"][:, first["margin"]].astype(float),
    }
    table("the gate", gate, own, name)
    for feature in ("image", "image_spread", "pixels", "summary", "first_hidden", "answer_hidden"):
        if feature not in known.features:
            continue
        fitted = estimates(known.features[feature].astype(float), fitting.features[feature].astype(float))
        table(feature, {how: of_feature(feature, estimate) for how, estimate in fitted.items()}, own, name)
    if arguments.looks:
        changes(name, {one: OUT / f"{one}.jsonl" for one in foreign.WORLDS})


if __name__ == "__main__":
    main()
