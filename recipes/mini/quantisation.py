"""What each quantisation method costs the embedded model.

    python -m recipes.mini.quantisation                 about 10 minutes; goes on where it was interrupted

Splits: MBQ calibrates on 128 questions drawn from the Selector's training mix; everything is measured on every eighth question
of the test mix. No choice was made on the test mix; methods were tried on other questions of the Selector's mix.

One rounding of one small model is a lottery: whether a method looks good depends on how a few weights happen to fall. So each
method is applied to several exact copies of the model: input channels of norms and MLPs times random factors near 1 that the
weights before them undo (the first copy has none). All copies compute the same function in float, and round differently.
Prints the table of docs/quantisation.md. In it a KL's interval is over pictures, with the mean of the copies; "copies" has the
mean KL of each copy; the last column compares with plain rounding into the same type, over draws of copies and pictures.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters import compare as comparison
from converters.convert import write
from converters.decoder import decoder_of
from converters.options import Options
from converters.quantisers import mbq
from converters.source import Model, opened
from edge_vqa.border.whole import write_whole
from edge_vqa.bundles import store
from edge_vqa.trust import intervals
from edge_vqa.work import questions as files
from recipes.mini.questions import MAX_TOKENS
from recipes.mini.reliability import MBQ_CALIBRATION, OUT

Floats = npt.NDArray[np.float64]
CHECKPOINT = Path("recipes/mini/checkpoint")
BUILD = Path("build/mini/quantisation")
COPIES, SPREAD = 3, 0.03
REFERENCE = "rtn:f32"
METHODS = (
    *("rtn:bf16", "rtn:q8_0", "rtn:q4_k_m", "rtn:q4_k", "rtn:q4_1", "rtn:q4_0", "rtn:iq4_nl", "rtn:q3_k_s", "rtn:q2_k"),
    *("hqq:q4_1", "mbq+hqq:q4_1", "mbq+rtn:q4_1", "mbq+rtn:q4_0", "mbq+rtn:q4_k_m", "mbq+rtn:q4_k"),
    *("mbq-imatrix:q4_k_m", "mbq-imatrix:q4_k", "mbq-imatrix:q4_0"),
)


def copy_of(model: Model, number: int) -> Model:
    """The same function with other weights; number 0 is the model itself."""
    if number == 0:
        return model
    rng, decoder, scales = np.random.default_rng(number), decoder_of(model.lm), {}
    for layer in range(decoder.layers):
        for group in ("attn_norm", "ffn_norm", "ffn_down"):
            name = f"blk.{layer}.{mbq.GROUPS[group][0][0]}.weight"
            n = model.lm.tensors[name].shape[1]
            scales[f"blk.{layer}.{group}"] = np.exp(rng.normal(0, SPREAD, n)).astype(np.float32)
    return replace(model, lm=mbq.fold(model.lm, decoder, scales))


def asked() -> list[files.Question]:
    """The test questions."""
    return files.read(OUT / "mix_test.jsonl", labelled=True)[::8]


def measure(number: int) -> Path:
    """Make and compare all bundles of one copy; a finished copy is not measured again."""
    done = BUILD / f"copy{number}.json"
    if done.is_file():
        return done
    made = []
    with opened(CHECKPOINT, Options(max_tokens=MAX_TOKENS)) as model:
        for quant in (REFERENCE, *METHODS):
            folder = BUILD / f"copy{number}" / quant.replace(":", "-")
            options = Options(
                quant=quant,
                vision_type="f16",
                max_tokens=MAX_TOKENS,
                threads=os.cpu_count() or 1,
                force=True,
                calibration=MBQ_CALIBRATION,
                name=quant,
            )
            # the reference is the model itself: a copy is the same function
            write(copy_of(model, 0 if quant == REFERENCE else number), CHECKPOINT, folder, options)
            made.append(store.read(folder))
            print(f"copy {number}: {quant} made", flush=True)
    rows = comparison.compare(made[0], made[1:], asked(), threads=2, progress=_tell)
    write_whole(done, lambda stream: stream.write(comparison.as_json(rows, "recipes/mini test mix").encode()))
    shutil.rmtree(BUILD / f"copy{number}")
    return done


def _tell(name: str, done: int, total: int) -> None:
    if done == total:
        print(f"{name}: {total} questions", flush=True)


def report(measured: list[dict[str, Any]], pictures: list[str]) -> str:
    """A Markdown table: every method, its size, accuracy and KL, and its KL as a share of plain rounding's in the same type."""
    rows = {quant: [next(b for b in copy["bundles"] if b["quantisation"] == quant) for copy in measured] for quant in METHODS}
    each = {quant: np.array([row["kl_each"] for row in found]) for quant, found in rows.items()}  # [copies, questions]
    whole = rows["rtn:bf16"][0]["lm_bytes"]
    lines = [
        "| LM | MB | of bf16 | accuracy, % | same answers, % | ECE | KL, 1e-3 nats | copies | KL / plain rounding |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for quant, found in rows.items():
        kl = intervals.mean(each[quant].mean(0), pictures)
        accuracy, same, ece = (np.mean([_value(row[key]) for row in found]) for key in ("accuracy", "same", "ece"))
        spread = ", ".join(f"{1000 * value:.2f}" for value in each[quant].mean(1))
        method, _, type_ = quant.partition(":")
        plain = f"rtn:{type_}"
        against = "" if method == "rtn" else _ratio(each[quant], each[plain], pictures)
        lines.append(
            f"| {quant} | {found[0]['lm_bytes'] / 1e6:.2f} | {found[0]['lm_bytes'] / whole:.1%} | {100 * accuracy:.1f}"
            f" | {100 * same:.1f} | {ece:.3f} | {1000 * kl.value:.3f} [{1000 * kl.low:.3f}, {1000 * kl.high:.3f}]"
            f" | {spread} | {against} |"
        )
    return "\n".join(lines)


def _value(figure: Any) -> float:
    return float(figure["value"] if isinstance(figure, dict) else figure)


def _ratio(ours: Floats, plain: Floats, pictures: list[str]) -> str:
    """Ratio of mean KLs with its 95 % interval, over draws of copies and of pictures."""
    _, place = np.unique(pictures, return_inverse=True)
    by_picture = [np.stack([np.bincount(place, row) for row in kl]) for kl in (ours, plain)]  # [copies, pictures]
    rng, draws = np.random.default_rng(0), []
    copies, number = by_picture[0].shape
    for _ in range(2000):
        picked = rng.integers(0, number, number)
        sums = [kl[rng.integers(0, copies, copies)][:, picked].sum() for kl in by_picture]
        draws.append(sums[0] / sums[1])
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{ours.mean() / plain.mean():.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    measured = [json.loads(measure(number).read_text()) for number in range(COPIES)]
    print(report(measured, [str(question.image) for question in asked()]))


if __name__ == "__main__":
    main()
