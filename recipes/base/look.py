"""How often the learned model is right, on photos that did not teach it.

    python -m recipes.base.look [--part dev] [--most 300] [--round iq4_nl] [--photos FOLDER] [--wrong]

Photos of FOLDER are others' of ImageNet's classes, in files called n01440764_anything. Questions are worded as no training
question was.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.base import asking, eyes, grid, lora, photos
from recipes.base.connector import PLACES
from recipes.base.packing import AFTER, BEFORE, END
from recipes.base.shots import BUILD, SHOPS
from recipes.base.train import Learner, Pictures, Shown, image_tokens, restore

LONGEST = 10  # tokens of an answer


@torch.inference_mode()
def answers(lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, image: torch.Tensor, questions: list[str]) -> list[str]:
    """Greedy answers to questions about one picture [1, tokens, n_embd]."""
    end = tokenizer.convert_tokens_to_ids(END)

    def embedded(text: str) -> torch.Tensor:
        return lm.model.embed_tokens(torch.tensor([tokenizer.encode(text, add_special_tokens=False)]))

    said = []
    for question in questions:
        inputs, ids, cache = torch.cat([embedded(BEFORE), image, embedded(question + AFTER)], 1), [], None
        while len(ids) < LONGEST:
            out = lm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = int(out.logits[0, -1].argmax())
            if token == end:
                break
            ids.append(token)
            cache, inputs = out.past_key_values, lm.model.embed_tokens(torch.tensor([[token]]))
        said.append(tokenizer.decode(ids).strip())
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="dev", choices=("dev", "test"))
    parser.add_argument("--most", type=int, default=300, help="photos of a set")
    parser.add_argument("--round", metavar="TYPE", help="store every matrix so, as a bundle does")
    parser.add_argument("--wrong", action="store_true", help="show wrong names")
    parser.add_argument("--photos", type=Path, help="folder of photos")
    arguments = parser.parse_args()
    learner = Learner()
    restore(learner)
    lm, own, things = lora.merge(learner.lm), learner.own, learner.things
    if arguments.round:
        with torch.no_grad():
            for matrix in grid.matrices(lm):
                matrix.copy_(grid.rounded(matrix, arguments.round))
    pictures = Pictures(learner)
    others = pictures.everything
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    shown: list[tuple[str, Shown]] = []
    for name, shots in zip(SHOPS, pictures.photos, strict=True):
        views = shots.views(arguments.part)
        for view in Random(name).sample(views, min(arguments.most, len(views))):
            asked = asking.ask(shots.of(view), others, Random(f"{name} {view}"), "test", count=9)
            shown.append((name, pictures.photo(shots.seen(view), asked)))
    noise = np.random.default_rng(0)
    for number in Random("classes").sample(range(len(things)), min(arguments.most, len(things))):
        asked = asking.ask(things[number], others, Random(f"class {number}"), "test", count=9)
        nothing = torch.nn.functional.one_hot(torch.tensor(len(own.kinds) - 1), len(own.kinds)).float()
        places = torch.zeros(PLACES, eyes.WIDTH)
        shown.append(("classes alone", Shown(pictures.classes(number, noise), nothing, places, False, asked)))
    if arguments.photos:
        places_of = {synset: place for place, synset in enumerate((BUILD / "imagenet_synsets.txt").read_text().split())}
        session = eyes.open_session(learner.network)
        files = sorted(arguments.photos.glob("n*_*"))
        for path in Random("photos").sample(files, min(arguments.most, len(files))):
            thing = things[places_of[path.name.partition("_")[0]]]
            with Image.open(path) as image:
                seen = eyes.pooled(eyes.features(session, [photos.whole(image.convert("RGB"))]))[0]
            asked = asking.ask(thing, others, Random(path.name), "test", count=9)
            shown.append(("photos of classes", pictures.photo(seen, asked)))
    for name, one in shown:
        said = answers(
            lm, learner.tokenizer, image_tokens(learner.connector, [one]), [question for _, question, _ in one.asked]
        )
        for (kind, _, answer), heard in zip(one.asked, said, strict=True):
            right[name, kind].append(heard == answer)
            if kind == "what" and heard != answer and arguments.wrong:
                print(f"{name}: {answer!r}, said {heard!r}")
    for (name, kind), each in sorted(right.items()):
        print(f"{name}, {kind}: {np.mean(each):.1%} of {len(each)}")


if __name__ == "__main__":
    main()
