"""Teaches the LM to read the eyes: adapters on every matrix, and the connector. Goes on where it was interrupted.

    python -m recipes.base.train --minutes 70

Three sorts of pictures: photos of shops; pictures of the mini's recipe; and pictures that are only known by their ImageNet
class, drawn as the classifier would confuse it, with the patch states of some photo: most classes are on no free photo.
Every `SETTLED` steps the weights in use are rounded as the bundle's are (`lora.settle`).
"""

from __future__ import annotations

import argparse
import inspect
import math
import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.base import asking, eyes, grid, language, lexicon, lora
from recipes.base.asking import Asked
from recipes.base.connector import TOKENS, Connector, Told, named, vectors_of
from recipes.base.finder import Finder, Found
from recipes.base.heads import Colours, Own, unseen
from recipes.base.packing import IGNORE, Packed, Packer
from recipes.base.sights import BUILD, DRAWN, SHOPS, Sights
from recipes.mini import questions, scenes, train
from recipes.mini.model import keep_freed_memory

CHECKPOINT = BUILD / "learned.pt"
TYPE = "iq4_nl"
MIX = {
    "classes": 0.13,
    "grocery": 0.12,
    "clothing": 0.06,
    "things": 0.28,
    "writing": 0.14,
    "shapes": 0.18,
    "easy": 0.02,
    "photos": 0.07,
}
PICTURES, QUESTIONS = 14, 8  # a step, a picture
RATE, CONNECTOR_RATE, WARM, SETTLED = 6e-4, 1e-3, 30, 75
TEXT, PLAIN = 96, 4  # tokens of plain text, every so many steps
HELD = 250  # pictures of each drawn set that are only looked at


@dataclass
class Learner:
    """What learns, and what tells it: published networks, heads, finder."""

    lm: LlamaForCausalLM  # off its grid, with adapters
    tokenizer: PreTrainedTokenizerFast
    fc: torch.nn.Module  # the published head, 1,000 classes
    own: Own
    colours: Colours
    finder: Finder
    connector: Connector

    @staticmethod
    def new() -> Learner:
        """As it begins."""
        lm, tokenizer, fc = published()
        own, colours = Own.load(), Colours.load()
        things = lexicon.imagenet(BUILD / "imagenet_synsets.txt")
        embeddings = lm.model.embed_tokens.weight.detach()
        coarse = {one["kind"]: one["thing"]["name"] for name in SHOPS for one in Sights.known(name)}
        connector = Connector(
            named([(thing.name, thing.narrow) for thing in things], embeddings, tokenizer),
            named([(coarse.get(kind, kind), kind) for kind in own.kinds], embeddings, tokenizer),
            torch.stack([vectors_of(colour, embeddings, tokenizer, 1) for colour in colours.kinds]),
            Told(embeddings, tokenizer),
        )
        return Learner(lm, tokenizer, fc, own, colours, Finder.load(), connector)


def published() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, torch.nn.Module]:
    """What others taught: LM and tokenizer, and the head of ImageNet's classes. The LM gets its adapters, which are nought."""
    lm, tokenizer = language.published()
    torch.manual_seed(0)
    lm.config._attn_implementation = "eager"  # a quarter faster here: short rows, a mask of their own
    return lora.adapt(language.leave_grid(lm)), tokenizer, eyes.published()._fc


@dataclass(frozen=True)
class Shown:
    """A picture for a step: what the connector takes, and what is asked."""

    seen: Tensor  # [classes]
    own: Tensor  # [kinds]
    colours: Tensor  # [colours]
    found: Found  # of one picture
    asked: list[Asked]


class Pictures:
    """Draws pictures to learn from."""

    def __init__(self, learner: Learner) -> None:
        self.own, self.fc, self.colours, self.finder = learner.own, learner.fc, learner.colours, learner.finder
        self.things = lexicon.imagenet(BUILD / "imagenet_synsets.txt")
        weights = normalize(self.fc.weight, dim=1)
        self.alike = (weights @ weights.T).detach().numpy()  # [classes, classes], cosines
        self.sights = {name: Sights.load(name) for name in (*SHOPS, "other", *DRAWN)}
        self.found = {name: self.finder.found(seen.states) for name, seen in self.sights.items()}
        self.unseen = {name: unseen(name) for name in SHOPS}
        self.training = {name: self.sights[name].of("train") for name in self.sights}
        for name in DRAWN:
            self.training[name] = self.training[name][:-HELD]
        self.easy = train.easy_questions("train")
        self.goods = {name: list({(t.name, t.narrow): t for t in self.sights[name].things}.values()) for name in SHOPS}
        self.everything = [*self.things, *(thing for things in self.goods.values() for thing in things)]
        counts = Counter(thing.name for thing in self.things)
        self.often = [counts[thing.name] ** -0.5 for thing in self.things]  # families do not crowd out the rest

    def classes(self, number: int, rng: np.random.Generator) -> Tensor:
        """Probabilities [classes] of a picture of class `number`, as the classifier would confuse it."""
        logits = rng.uniform(8, 22) * self.alike[number] + rng.gumbel(0, 1, len(self.alike))
        logits[number] += rng.uniform(-1, 4)
        return torch.from_numpy(logits.astype(np.float32)).softmax(-1)

    def of_class(self, number: int, asked: list[Asked], rng: Random, noise: np.random.Generator) -> Shown:
        own = noise.dirichlet(np.full(len(self.own.kinds), 0.02))
        share = 1 - noise.uniform(0, 0.15) if rng.random() < 0.75 else noise.uniform(0.1, 1)  # how much is `other`
        own[-1] = 0
        own *= (1 - share) / max(own.sum(), 1e-9)
        own[-1] = 1 - own.sum()
        place = rng.choice((*SHOPS, "other", "other"))
        row = rng.choice(self.training[place])
        colours, kinds = self.colours(self.states(place, row))[0], torch.from_numpy(own.astype(np.float32))
        return Shown(self.classes(number, noise), kinds, colours, self.found[place].row(row), asked)

    def states(self, name: str, number: int) -> Tensor:
        return torch.from_numpy(self.sights[name].states[number].astype(np.float32))

    def look(self, name: str, number: int, asked: list[Asked], rng: Random | None = None) -> Shown:
        """A picture that the eyes have seen. With `rng`, to learn from: what a photo is told to be is then what heads say that
        it did not teach. Where those are wrong (oftener than the head on new photos), in two of three cases the mean of these
        and the head is told: unsure, but mostly right. Else the LM learns not to trust the likeliest kind."""
        mean = torch.from_numpy(self.sights[name].mean[number].astype(np.float32))
        own = self.own(mean)
        if rng and name in SHOPS:
            unseen, true = self.unseen[name][number], self.own.kinds.index(self.sights[name].about[number]["kind"])
            mixed = unseen.argmax() != true and rng.random() < 2 / 3
            own = (own + unseen) / 2 if mixed else unseen
        colours = self.colours(self.states(name, number))[0]
        return Shown(self.fc(mean).softmax(-1).detach(), own, colours, self.found[name].row(number), asked)

    def photo(self, mean: Tensor, states: Tensor, asked: list[Asked]) -> Shown:
        """A picture by its mean features [WIDTH] and states."""
        found = self.finder.found(states[None].numpy()).row(0)
        return Shown(self.fc(mean).softmax(-1).detach(), self.own(mean), self.colours(states)[0], found, asked)

    def draw(self, rng: Random, noise: np.random.Generator) -> Shown:
        name = rng.choices(list(MIX), list(MIX.values()))[0]
        if name == "classes":
            number = rng.choices(range(len(self.things)), self.often)[0]
            near = [self.things[n] for n in np.argsort(-self.alike[number])[1:12]]
            asked = asking.ask(self.things[number], self.everything, rng, count=QUESTIONS, near=near)
            return self.of_class(number, asked, rng, noise)
        number = rng.choice(self.training[name])
        return self.look(name, number, self.ask(name, number, rng, "train"), rng)

    def ask(self, name: str, number: int, rng: Random, part: str, polite: float | None = None) -> list[Asked]:
        """Questions about a picture that the eyes have seen. Answers that nobody could know are not taught: to abstain is the
        Selector's work."""
        if name in SHOPS:
            thing, near = self.sights[name].things[number], self.goods[name]
            return asking.ask(thing, self.everything, rng, part, QUESTIONS if part == "train" else 9, near, polite)
        about = self.sights[name].about[number]
        if name == "easy":
            return rng.choices(self.easy[about["easy"]], k=QUESTIONS)
        asked = questions.ask(scenes.from_line(about["scene"]), QUESTIONS, rng, part)
        return [one for one in asked if one[2] != questions.CANNOT_TELL]


@cache
def prose(held: bool) -> str:
    """Plain text: definitions of WordNet and docstrings of Python's library; a tenth is held back."""
    found = lexicon.glosses()
    for module in sorted(one.name for one in pkgutil.iter_modules() if not one.name.startswith("_")):
        try:
            found += docstrings(module)
        except ImportError:  # a module that this system does not have
            continue
    Random("prose").shuffle(found)
    tenth = len(found) // 10
    return "\n".join(found[:tenth] if held else found[tenth:])


def docstrings(module: str) -> Iterator[str]:
    if module in sys.stdlib_module_names and module not in ("antigravity", "this", "idlelib"):
        yield from (text for one in vars(import_module(module)).values() if len(text := inspect.getdoc(one) or "") > 200)


def answering(lm: LlamaForCausalLM, packed: Packed, image: Tensor) -> tuple[Tensor, Tensor]:
    """Which places say what an answer's next token is [b, t], and their logits [places, words]. image: [b, TOKENS, n_embd]."""
    embeddings = lm.model.embed_tokens(packed.ids)
    image = image.to(embeddings.dtype).reshape(-1, image.shape[-1])
    embeddings = embeddings.masked_scatter(packed.image[..., None], image)
    states = lm.model(
        inputs_embeds=embeddings, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    ).last_hidden_state
    answers = packed.targets != IGNORE
    return answers, lm.lm_head(states[answers])


def loss_of(lm: LlamaForCausalLM, packed: Packed, image: Tensor) -> Tensor:
    answers, logits = answering(lm, packed, image)
    losses = cross_entropy(logits.float(), packed.targets[answers], reduction="none")
    weights = packed.weights[answers]
    return (losses * weights).sum() / weights.sum()


def image_tokens(connector: Connector, shown: Sequence[Shown]) -> Tensor:
    seen, own, colours = (torch.stack([getattr(one, name) for one in shown]) for name in ("seen", "own", "colours"))
    return connector(seen, own, colours, Found.stack([one.found for one in shown]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--steps", type=int, help="stop here, for trials")
    parser.add_argument("--go-on", action="store_true", help="from what is kept in the repository (learned.safetensors)")
    arguments = parser.parse_args()
    learner, steps = kept_learner() if arguments.go_on else (Learner.new(), 0)
    teach(learner, CHECKPOINT, arguments.minutes, partial(grid.rounded, type_=TYPE), begun=steps, until=arguments.steps)


def teach(
    learner: Learner, checkpoint: Path, minutes: float, rounded: Callable[[Tensor], Tensor], *,
    rate: float = RATE, begun: int = 0, until: int | None = None,
) -> None:  # fmt: skip
    """Goes on from `checkpoint` where there is one. rounded: what storing does to a matrix. begun: steps taken before; until:
    stop there. Whatever wants gradients learns; of the connector with a rate of its own."""
    keep_freed_memory()
    lm, connector, pictures = learner.lm, learner.connector, Pictures(learner)
    learning, telling = ([one for one in part.parameters() if one.requires_grad] for part in (lm, connector))
    optimiser = torch.optim.AdamW(
        [{"params": learning, "lr": rate}, {"params": telling, "lr": CONNECTOR_RATE}], weight_decay=0.01
    )
    step, before = restore(learner, checkpoint, optimiser) if checkpoint.is_file() else (begun, 0.0)
    packer, losses, whole = Packer(learner.tokenizer, TOKENS), [], 60 * minutes
    text = torch.tensor(learner.tokenizer(prose(False)).input_ids)
    began = time.monotonic()
    while (spent := before + time.monotonic() - began) < whole and step != until:
        if step % SETTLED == 0 or not losses:
            lora.settle(lm, rounded)
        rng, noise = Random(f"step {step}"), np.random.default_rng(step)
        factor = min(1, (len(losses) + 1) / WARM) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / whole)))
        for group, own in zip(optimiser.param_groups, (rate, CONNECTOR_RATE), strict=True):
            group["lr"] = own * factor
        shown = [pictures.draw(rng, noise) for _ in range(PICTURES)]
        packed = packer([one.asked for one in shown])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(lm, packed, image_tokens(connector, shown))
            answered, total = loss.item(), loss
            if step % PLAIN == 0 or not losses:
                some = text[None, (first := rng.randrange(len(text) - TEXT)) : first + TEXT]
                plain = lm(input_ids=some, labels=some).loss
                total = loss + 0.3 * plain
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([*learning, *telling], 1.0)
        optimiser.step()
        losses.append((answered, plain.item()))
        step += 1
        if step % 20 == 0:
            mean = np.mean(losses[-20:], 0)
            print(f"step {step}, {spent / 60:.1f} minutes, loss {mean[0]:.3f}, plain text {mean[1]:.3f}", flush=True)
        if step % 100 == 0:
            keep(learner, checkpoint, optimiser, step, before + time.monotonic() - began)
    keep(learner, checkpoint, optimiser, step, before + time.monotonic() - began)


def kept_learner() -> tuple[Learner, int]:
    """What is kept, and after how many steps."""
    from recipes.base import kept  # which needs what stands here

    return kept.read()


def learned(lm: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}


def keep(learner: Learner, checkpoint: Path, optimiser: torch.optim.Optimizer, step: int, spent: float) -> None:
    state = {"lm": learned(learner.lm), "connector": learner.connector.state_dict(), "step": step, "spent": spent}
    state["optimiser"] = optimiser.state_dict()
    torch.save(state, checkpoint.with_suffix(".part"))
    checkpoint.with_suffix(".part").replace(checkpoint)


def restore(learner: Learner, checkpoint: Path, optimiser: torch.optim.Optimizer | None = None) -> tuple[int, float]:
    """Steps taken, and the seconds that they took."""
    state = torch.load(checkpoint)
    learner.lm.load_state_dict(state["lm"], strict=False)
    learner.connector.load_state_dict(state["connector"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state["spent"])


if __name__ == "__main__":
    main()
