"""What was learned, small enough to be kept in the repository: adapters, connector, heads and finder in 8 bits, 22 MB.

python -m recipes.base.kept    # build/base/learned.pt -> recipes/base/learned.safetensors

Everything else that the base model consists of is published (`language.py`, `eyes.py`): with this file the bundle can be made
again without data or training.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.base.connector import Connector, Told
from recipes.base.finder import Finder
from recipes.base.heads import Colours, Own
from recipes.base.train import CHECKPOINT, Learner, learned, published, restore

PATH = Path(__file__).with_name("learned.safetensors")
SCALES = ".scales"  # after the name of what they scale
SMALL = 4096  # values; below, they stay float32


def coded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Large tensors as int8 with a scale for each row (of their last axis)."""
    stored = {}
    for name, values in tensors.items():
        values = values.detach().float().contiguous()
        if values.numel() < SMALL or values.dim() < 2:
            stored[name] = values
            continue
        scales = values.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        stored |= {name: (values / scales).round().to(torch.int8), name + SCALES: scales}
    return stored


def decoded(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `coded` made, float32 again."""
    return {
        name: values.float() * stored[name + SCALES] if name + SCALES in stored else values
        for name, values in stored.items()
        if not name.endswith(SCALES)
    }


def write(learner: Learner, step: int) -> None:
    parts = {
        "lm": learned(learner.lm),
        "connector": learner.connector.state_dict(),
        "finder": learner.finder.state_dict(),
        "own": {"weight": learner.own.weight, "bias": learner.own.bias},
        "colours": {"weight": learner.colours.weight, "bias": learner.colours.bias},
    }
    tensors = {f"{part}.{name}": values for part, own in parts.items() for name, values in own.items()}
    told = {"own": json.dumps(learner.own.kinds), "colours": json.dumps(learner.colours.kinds), "steps": str(step)}
    part = PATH.with_suffix(".part")
    save_file(coded(tensors), part, told)
    part.replace(PATH)


def read() -> tuple[Learner, int]:
    """What was learned, put together with what is published; and in how many steps."""
    with safe_open(PATH, "pt") as file:
        told, tensors = file.metadata(), decoded({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def of(part: str) -> dict[str, Tensor]:
        return {name.removeprefix(f"{part}."): values for name, values in tensors.items() if name.startswith(f"{part}.")}

    lm, tokenizer, fc = published()
    assert not lm.load_state_dict(of("lm"), strict=False).unexpected_keys
    own, colours = (sort(of(name) | {"kinds": json.loads(told[name])}) for name, sort in (("own", Own), ("colours", Colours)))
    finder, values = Finder(), of("connector")
    finder.load_state_dict(of("finder"))
    connector = Connector(
        *(values[f"{name}.table"] for name in ("seen", "own", "colours")),
        Told(lm.model.embed_tokens.weight.detach(), tokenizer),
    )
    connector.load_state_dict(values)
    return Learner(lm, tokenizer, fc, own, colours, finder.eval().requires_grad_(False), connector), int(told["steps"])


def main() -> None:
    learner = Learner.new()
    step, spent = restore(learner, CHECKPOINT)
    write(learner, step)
    print(f"{PATH}: {PATH.stat().st_size / 1e6:.1f} MB, {step} steps, {spent / 60:.0f} minutes")


if __name__ == "__main__":
    main()
