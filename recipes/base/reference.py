"""The base model as a study of quantisation needs it: in bf16, never rounded to fewer bits.

    python -m recipes.base.reference --minutes 20     # after recipes.base.sights and recipes.base.heads
    python -m recipes.base.reference --keep           # build/base/reference.pt -> recipes/base/reference.safetensors
    python -m recipes.base.reference -o FOLDER        # what is kept, as a bundle: LM in bf16; --float: the vision graph in f32

The base model learned on weights rounded to iq4_nl: it is better rounded so than not, and says nothing of what rounding costs.
So its weights are changed once more by what cancels out (`language.leave_grid` with another seed): every rounding is a new one.
Then it goes on learning for a while in bf16. Eyes, finder and connector stay as they are: one vision graph serves all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recipes.base import bundle, kept, language, lora
from recipes.base.sights import BUILD
from recipes.base.train import Learner, learned, restore, teach

CHECKPOINT = BUILD / "reference.pt"
PATH = Path(__file__).with_name("reference.safetensors")
SEED, RANK, RATE = 1, 16, 3e-4


def begun() -> Learner:
    """As it begins: what ships, off every grid, with new adapters that are nought."""
    learner, _ = kept.read()
    learner.lm = lora.adapt(language.leave_grid(lora.merge(learner.lm), SEED), RANK)
    learner.connector.requires_grad_(False)
    return learner


def read() -> Learner:
    """As it was kept."""
    learner = begun()
    assert not learner.lm.load_state_dict(kept.decoded(load_file(PATH)), strict=False).unexpected_keys
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--keep", action="store_true", help="write what was learned into the repository")
    parser.add_argument("-o", "--output", type=Path, help="write what is kept as a bundle")
    parser.add_argument("--float", action="store_true", help="with the vision graph in f32")
    arguments = parser.parse_args()
    if arguments.output:
        bundle.write(read(), arguments.output, arguments.output.name, "bf16", eight=not arguments.float)
        return
    learner = begun()
    if not arguments.keep:
        torch.manual_seed(SEED)
        teach(learner, CHECKPOINT, arguments.minutes, lambda weight: weight, rate=RATE)
        return
    step, spent = restore(learner, CHECKPOINT)
    part = PATH.with_suffix(".part")
    save_file(kept.coded(learned(learner.lm)), part, {"steps": str(step)})
    part.replace(PATH)
    print(f"{PATH}: {PATH.stat().st_size / 1e6:.1f} MB, {step} steps, {spent / 60:.0f} minutes")


if __name__ == "__main__":
    main()
