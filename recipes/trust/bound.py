"""How far quantising the LM can move a confidence, and how far it does.

    python -m recipes.trust.bound BUNDLE REFERENCE QUESTIONS.jsonl [--most 1000]

REFERENCE: the same bundle with its LM in bf16. Both answer the same questions; where they say the same, the difference of the
features x that the Selector reads is known, and three things follow for its confidence c = mean of sigmoid(f(P x)):

- a bound for any difference of that length: |dc| <= |P dx| times the mean over the members of the product of the spectral
  norms of their layers / 4, as a sigmoid rises by 1 / 4 at most and ReLU by 1;
- what the slope at x predicts: |grad c . dx|;
- what is seen: |dc|; and how many decisions flip at the default operating point.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_vqa.bundles import store
from edge_vqa.model import load
from edge_vqa.trust import trace
from edge_vqa.trust.confidence import Selector
from edge_vqa.work import questions as files

Floats = npt.NDArray[np.float64]
STEP = 1e-3  # of dx, for the slope


def weights(path: Path) -> dict[str, Floats]:
    """The stored matrices and biases of a Selector, unpacked."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    found = {name: values.astype(float) for name, values in stored.items() if not name.endswith(("_int8", "_scale"))}
    for name, codes in stored.items():
        if name.endswith("_int8"):
            own = name.removesuffix("_int8")
            found[own] = codes.astype(float) * stored[f"{own}_scale"][:, None]
    return found


def members(stored: dict[str, Floats]) -> list[list[Floats]]:
    """The matrices of each member, layer by layer."""
    found: list[list[Floats]] = []
    while f"member{len(found)}_0_weight" in stored:
        layers: list[Floats] = []
        while (name := f"member{len(found)}_{len(layers)}_weight") in stored:
            layers.append(stored[name])
        found.append(layers)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--most", type=int, default=1000, help="questions, drawn with a fixed seed")
    arguments = parser.parse_args()
    bundle = store.read(arguments.bundle)
    asked = files.read(arguments.questions)
    asked = Random(0).sample(asked, min(arguments.most, len(asked)))
    answers = []
    for folder in (arguments.bundle, arguments.reference):
        with load(folder, confidence="maxprob") as model:
            answers.append([model.ask(question.image, question.question, gate=False) for question in asked])
    selector = Selector(bundle)
    stored = weights(bundle.files["selector"])
    slopes = [np.prod([np.linalg.norm(layer, 2) for layer in layers]) / 4 for layers in members(stored)]
    names = list(bundle.manifest.estimators["selector"].dimensions)
    point = bundle.manifest.default_point("selector")
    assert point is not None and point.threshold is not None
    seen, bounds, predicted, flips, near, lengths, logits = [], [], [], 0, 0, [], []
    same = 0
    for ours, theirs in zip(*answers, strict=True):
        x, y = (trace.features(answer.trace) for answer in (ours, theirs))
        c, d = (float(selector.score_features(features)[0]) for features in (x, y))
        flips += (c >= point.threshold) != (d >= point.threshold)
        if ours.candidate != theirs.candidate:
            continue
        same += 1
        moved = np.concatenate([(y[name] - x[name]) @ stored[f"{name}_projected_weight"].T for name in names], axis=1)
        hidden = y["first_hidden"] - x["first_hidden"]
        lengths.append(float(np.linalg.norm(hidden) / np.linalg.norm(x["first_hidden"])))
        logits.append(abs(ours.trace.tokens[0].logprob - theirs.trace.tokens[0].logprob))
        bounds.append(float(np.linalg.norm(moved) * np.mean(slopes)))
        nearby = {name: x[name] + np.float32(STEP) * (y[name] - x[name]) for name in x}
        predicted.append(abs(float(selector.score_features(nearby)[0]) - c) / STEP)
        seen.append(abs(d - c))
        near += abs(c - point.threshold) <= bounds[-1]

    def quantiles(values: list[float]) -> str:
        return ", ".join(f"{value:.4f}" for value in np.quantile(values, (0.5, 0.95, 0.999)))

    print(f"{len(asked)} questions, {same} with the same answer; median, 95 %, 99.9 %:")
    print(f"first hidden state, relative error: {quantiles(lengths)}")
    print(f"log p of the first token, difference: {quantiles(logits)}")
    print(f"confidence, bound:         {quantiles(bounds)}")
    print(f"confidence, by its slope:  {quantiles(predicted)}")
    print(f"confidence, seen:          {quantiles(seen)}")
    print(f"decisions that can flip by the bound: {near / max(same, 1):.1%}; that flip: {flips / len(asked):.1%} of all")
    correlation = np.corrcoef(predicted, seen)[0, 1]
    print(f"correlation of what the slope predicts with what is seen: {correlation:.2f}")


if __name__ == "__main__":
    main()
