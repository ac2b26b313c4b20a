"""How often the learned model is right, on pictures that did not teach it; with its weights rounded as the bundle's are.

    python -m recipes.base.look [--most 200] [--part dev] [--photos FOLDER] [--exact] [--wrong what]

Photos of FOLDER are others' of ImageNet's classes, in files called n01440764_anything. Questions are worded as no training
question was, plainly and as people talk. An answer is right where greedy decoding gives exactly the one expected.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from recipes.base import asking, eyes, grid, lora, photos
from recipes.base.connector import TOKENS
from recipes.base.packing import IGNORE, Packer
from recipes.base.sights import BUILD, DRAWN, SHOPS
from recipes.base.train import CHECKPOINT, HELD, TYPE, Learner, Pictures, Shown, answering, image_tokens, prose, restore
from recipes.mini.model import keep_freed_memory


@torch.inference_mode()
def said(learner: Learner, packer: Packer, shown: list[Shown]) -> list[list[tuple[bool, str]]]:
    """Of each question, whether its answer is right, and what is said instead, token by token after the right ones."""
    packed = packer([one.asked for one in shown])
    with torch.autocast("cpu", torch.bfloat16):
        answers, logits = answering(learner.lm, packed, image_tokens(learner.connector, shown))
    best = torch.full_like(packed.targets, IGNORE)
    best[answers] = logits.argmax(-1)
    found = []
    for row, one in enumerate(shown):
        places = answers[row].nonzero().flatten().tolist()
        own, first = [], 0
        for kind, question, answer in one.asked:
            count = packer.encode(question, answer, kind.startswith("read"))[1]
            at = places[first : first + count]
            first += count
            text = learner.tokenizer.decode(best[row, at[: count - 1] or at])
            own.append((bool((best[row, at] == packed.targets[row, at]).all()), text))
        found.append(own)
    return found


@torch.inference_mode()
def perplexity(learner: Learner, rows: int = 24, length: int = 256) -> float:
    ids = torch.tensor(learner.tokenizer(prose(True)).input_ids[: rows * length]).view(rows, length)
    with torch.autocast("cpu", torch.bfloat16):
        return float(np.exp(np.mean([learner.lm(input_ids=row[None], labels=row[None]).loss.item() for row in ids])))


def gather(pictures: Pictures, part: str, most: int, folder: Path | None) -> list[tuple[str, Shown]]:
    shown = []
    for name in SHOPS:
        numbers = pictures.sights[name].of(part)
        for number in Random(name).sample(numbers, min(most, len(numbers))):
            for words, polite in ((name, 0.0), (f"{name}, politely", 1.0)):
                asked = pictures.ask(name, number, Random(f"{name} {number}"), "test", polite)
                shown.append((words, pictures.look(name, number, asked)))
    for name in DRAWN:
        for number in pictures.sights[name].of("train")[-HELD:][:most]:
            shown.append((name, pictures.look(name, number, pictures.ask(name, number, Random(f"{name} {number}"), "dev"))))
    noise = np.random.default_rng(0)
    for number in Random("classes").sample(range(len(pictures.things)), most):
        asked = asking.ask(pictures.things[number], pictures.everything, Random(f"class {number}"), "test", count=9)
        shown.append(("classes alone", pictures.of_class(number, asked, Random(number), noise)))
    if folder:
        places = {synset: place for place, synset in enumerate((BUILD / "imagenet_synsets.txt").read_text().split())}
        session, files = eyes.open_session(eyes.Eyes(), ("mean", "states"), 2), sorted(folder.glob("n*_*"))
        for path in Random("photos").sample(files, min(most, len(files))):
            thing = pictures.things[places[path.name.partition("_")[0]]]
            with Image.open(path) as image:
                mean, states = (
                    torch.from_numpy(a[0]).float() for a in eyes.look(session, [photos.whole(image.convert("RGB"))])
                )
            asked = asking.ask(thing, pictures.everything, Random(path.name), "test", count=9)
            shown.append(("others' photos", pictures.photo(mean, states, asked)))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="dev")
    parser.add_argument("--most", type=int, default=200, help="pictures of each set")
    parser.add_argument("--exact", action="store_true", help="do not round the weights")
    parser.add_argument("--wrong", metavar="KIND", help="show what is said instead, to questions of this kind")
    parser.add_argument("--photos", type=Path, help="folder of photos")
    arguments = parser.parse_args()
    keep_freed_memory()
    learner = Learner.new()
    pictures, packer = Pictures(learner), Packer(learner.tokenizer, TOKENS)
    published = perplexity(learner)
    restore(learner, CHECKPOINT)
    lora.settle(learner.lm, (lambda whole: whole) if arguments.exact else partial(grid.rounded, type_=TYPE))
    print(f"perplexity of plain text: {published:.2f} as published, {perplexity(learner):.2f} now", flush=True)
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    shown = gather(pictures, arguments.part, arguments.most, arguments.photos)
    for first in range(0, len(shown), 16):
        chunk = shown[first : first + 16]
        for (name, one), own in zip(chunk, said(learner, packer, [one for _, one in chunk]), strict=True):
            for (kind, question, answer), (hit, text) in zip(one.asked, own, strict=True):
                right[name, kind].append(hit)
                if kind == arguments.wrong and not hit:
                    print(f"{name}: {question} {answer!r}, said {text!r}")
    for (name, kind), each in sorted(right.items()):
        print(f"{name}, {kind}: {np.mean(each):.1%} of {len(each)}")


if __name__ == "__main__":
    main()
