"""What was learned, small enough to be kept in the repository: adapters, connector and heads in bfloat16, 38 MB.

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

from recipes.base.connector import Connector
from recipes.base.heads import Colours, Own
from recipes.base.train import Learner, learned, restore

PATH = Path(__file__).with_name("learned.safetensors")


def write(learner: Learner, step: int) -> None:
    tensors: dict[str, Tensor] = {f"lm.{name}": values for name, values in learned(learner.lm).items()}
    tensors |= {f"connector.{name}": values for name, values in learner.connector.state_dict().items()}
    for name, head in (("own", learner.own), ("colours", learner.colours)):
        tensors |= {f"{name}.weight": head.weight, f"{name}.bias": head.bias}
    told = {"own": json.dumps(learner.own.kinds), "colours": json.dumps(learner.colours.kinds), "steps": str(step)}
    part = PATH.with_suffix(".part")
    save_file({name: values.detach().bfloat16().contiguous() for name, values in tensors.items()}, part, told)
    part.replace(PATH)


def read() -> tuple[Learner, int]:
    """What was learned, put together with what is published; and in how many steps."""
    learner = Learner.__new__(Learner)
    learner.published()
    with safe_open(PATH, "pt") as stored:
        told, tensors = stored.metadata(), {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118

    def of(part: str) -> dict[str, Tensor]:
        return {name.removeprefix(f"{part}."): values for name, values in tensors.items() if name.startswith(f"{part}.")}

    learner.own = Own(of("own") | {"kinds": json.loads(told["own"])})
    learner.colours = Colours(of("colours") | {"kinds": json.loads(told["colours"])})
    connector = of("connector")
    learner.connector = Connector(*(connector[f"{name}.table"] for name in ("seen", "own", "colours")))
    learner.connector.load_state_dict(connector)
    missing = learner.lm.load_state_dict(of("lm"), strict=False)
    assert not missing.unexpected_keys
    return learner, int(told["steps"])


def main() -> None:
    learner = Learner()
    step, spent = restore(learner)
    with torch.no_grad():
        write(learner, step)
    print(f"{PATH}: {PATH.stat().st_size / 1e6:.1f} MB, {step} steps, {spent / 60:.0f} minutes")


if __name__ == "__main__":
    main()
