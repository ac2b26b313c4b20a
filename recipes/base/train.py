"""Teaches the LM to read the eyes: adapters on every matrix, and the connector. Goes on where it was interrupted.

    python -m recipes.base.train --minutes 60

Two kinds of pictures: photos with their real features, and pictures that are only known by their classes, drawn as the
classifier would confuse them, of all 1,000 ImageNet classes, most of which no free photo shows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import LlamaForCausalLM

from recipes.base import asking, eyes, language, lexicon
from recipes.base.connector import PLACES, TOKENS, Connector
from recipes.base.eyes import WIDTH
from recipes.base.lora import adapt
from recipes.base.packing import IGNORE, Packed, Packer
from recipes.base.shots import BUILD, SHOPS, Own, Shots

CHECKPOINT = BUILD / "learned.pt"
PICTURES = 16  # a step
RATE, CONNECTOR_RATE, WARM = 2e-4, 1e-3, 50


class Learner:
    """What learns, as it begins: the LM off its grid with adapters, and the connector; with what the eyes tell them."""

    def __init__(self) -> None:
        lm, self.tokenizer = language.published()
        torch.manual_seed(0)
        self.lm = adapt(language.rotate(lm))
        self.network, self.own = eyes.published(), Own(torch.load(BUILD / "own.pt"))
        self.things = lexicon.imagenet(BUILD / "imagenet_synsets.txt")
        embeddings = self.lm.model.embed_tokens.weight.detach()
        self.connector = Connector([thing.name for thing in self.things], self.own.kinds, embeddings, self.tokenizer)


@dataclass(frozen=True)
class Shown:
    """A picture for a step: what the connector takes, and what is asked."""

    seen: Tensor  # [classes]
    own: Tensor  # [kinds]
    places: Tensor  # [PLACES, WIDTH]
    photo: bool
    asked: list[tuple[str, str, str]]


class Pictures:
    """Draws pictures to learn from, half of them photos."""

    def __init__(self, learner: Learner) -> None:
        self.things, self.own, self.fc = learner.things, learner.own, learner.network._fc
        weights = normalize(self.fc.weight, dim=1)
        self.alike = weights @ weights.T  # [classes, classes], cosines
        self.photos = [Shots.load(name) for name in SHOPS]
        self.training = [shots.views("train") for shots in self.photos]
        goods = (thing for shots in self.photos for thing in dict.fromkeys(shots.things))
        self.everything = [*self.things, *goods]

    def classes(self, number: int, rng: np.random.Generator) -> Tensor:
        """Probabilities [classes] of a picture of class `number`, as the classifier would confuse it."""
        logits = rng.uniform(8, 22) * self.alike[number].numpy() + rng.gumbel(0, 1, len(self.alike))
        logits[number] += rng.uniform(-1, 3)
        return torch.from_numpy(logits.astype(np.float32)).softmax(-1)

    def draw(self, rng: Random, noise: np.random.Generator) -> Shown:
        others = self.everything
        if rng.random() < 0.5:
            number = rng.randrange(len(self.things))
            thing = self.things[number]
            nothing = torch.full((len(self.own.kinds),), float(noise.uniform(0, 0.2)) / len(self.own.kinds))
            nothing[-1] = 1 - nothing[:-1].sum()
            return Shown(
                self.classes(number, noise), nothing, torch.zeros(PLACES, WIDTH), False, asking.ask(thing, others, rng)
            )
        shop = rng.randrange(len(self.photos))
        shots, view = self.photos[shop], rng.choice(self.training[shop])
        return self.photo(shots.seen(view), asking.ask(shots.of(view), others, rng))

    def photo(self, seen: Tensor, asked: list[tuple[str, str, str]]) -> Shown:
        """A photo, of its pooled features [PLACES, WIDTH]."""
        return Shown(self.fc(seen[0]).softmax(-1), self.own(seen[0]), seen, True, asked)


def loss_of(lm: LlamaForCausalLM, packed: Packed, image: Tensor) -> Tensor:
    embeddings = lm.model.embed_tokens(packed.ids).masked_scatter(packed.image[..., None], image.reshape(-1, image.shape[-1]))
    states = lm.model(
        inputs_embeds=embeddings, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    ).last_hidden_state
    answers = packed.targets != IGNORE
    losses = cross_entropy(lm.lm_head(states[answers]), packed.targets[answers], reduction="none")
    weights = packed.weights[answers]
    return (losses * weights).sum() / weights.sum()


def image_tokens(connector: Connector, shown: Sequence[Shown]) -> Tensor:
    stacked = (torch.stack([getattr(one, name) for one in shown]) for name in ("seen", "own", "places"))
    return connector(*stacked, torch.tensor([float(one.photo) for one in shown]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    arguments = parser.parse_args()
    learner = Learner()
    lm, connector, pictures = learner.lm, learner.connector, Pictures(learner)
    learning = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": learning, "lr": RATE}, {"params": connector.parameters(), "lr": CONNECTOR_RATE}], weight_decay=0.01
    )
    step = 0
    if CHECKPOINT.is_file():
        step = restore(learner, optimiser)
    packer, began, losses = Packer(learner.tokenizer, TOKENS), time.monotonic(), []
    while (spent := time.monotonic() - began) < 60 * arguments.minutes:
        rng, noise = Random(f"step {step}"), np.random.default_rng(step)
        factor = min(1, (step + 1) / WARM) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * spent / (60 * arguments.minutes))))
        for group, rate in zip(optimiser.param_groups, (RATE, CONNECTOR_RATE), strict=True):
            group["lr"] = rate * factor
        shown = [pictures.draw(rng, noise) for _ in range(PICTURES)]
        loss = loss_of(lm, packer([one.asked for one in shown]), image_tokens(connector, shown))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*learning, *connector.parameters()], 1.0)
        optimiser.step()
        losses.append(loss.item())
        step += 1
        if step % 20 == 0:
            print(f"step {step}, {spent / 60:.1f} minutes, loss {np.mean(losses[-20:]):.3f}", flush=True)
        if step % 100 == 0:
            keep(learner, optimiser, step)
    keep(learner, optimiser, step)


def learned(lm: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}


def keep(learner: Learner, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"lm": learned(learner.lm), "connector": learner.connector.state_dict(), "step": step}
    state["optimiser"] = optimiser.state_dict()
    torch.save(state, CHECKPOINT.with_suffix(".part"))
    CHECKPOINT.with_suffix(".part").replace(CHECKPOINT)


def restore(learner: Learner, optimiser: torch.optim.Optimizer | None = None) -> int:
    state = torch.load(CHECKPOINT)
    learner.lm.load_state_dict(state["lm"], strict=False)
    learner.connector.load_state_dict(state["connector"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


if __name__ == "__main__":
    main()
