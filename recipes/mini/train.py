"""Stage 2: the whole model, all questions of a picture packed behind one image prefix.

    python -m recipes.mini.train --steps 2600

Starts from stage 1's vision tower (`build/mini/pretrain.pt`), resumes from `build/mini/train.pt`, and writes the bf16
checkpoint to `recipes/mini/checkpoint/` when it is through. The classification heads of stage 1 stay attached as a second
loss, so that the tower keeps what it knows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from recipes.mini import data, model, pretrain, questions
from recipes.mini.packing import IGNORE, Packed, Packer

BATCH_PHOTOS, BATCH_EASY, BATCH_DRAWN = 48, 10, 6
PER_PICTURE = 5
CHECKPOINT = data.BUILD / "train.pt"
OUTPUT = Path("recipes/mini/checkpoint")
Pairs = list[list[tuple[str, str]]]


class Source(pretrain.Source):
    """Augmented pictures of the training split with questions."""

    def __init__(self) -> None:
        super().__init__()
        self.easy_numbers = np.array(data.splits()["easy"]["train"])
        self.asked: dict[int, list[tuple[str, str]]] = {int(i): [] for i in self.easy_numbers}
        for question, answer, picture in json.loads((data.BUILD / "easy_train.json").read_text()):
            if picture in self.asked:
                self.asked[picture].append((question, answer))

    def questions(self, step: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Pairs]:
        """Pixels [b, 3, 64, 64]; labels for the classification heads; the questions of each picture."""
        rng, random, generator = np.random.default_rng([1, step]), Random(step), torch.Generator().manual_seed(step)
        chosen = self.photo_batch(step, BATCH_PHOTOS)
        easy = rng.choice(self.easy_numbers, BATCH_EASY)
        drawn = np.sort(rng.integers(0, len(self.drawn.images), BATCH_DRAWN))
        images, labels = self.pictures(chosen, easy, drawn, generator)
        pairs: Pairs = []
        for number in chosen:
            asked = questions.photo_questions(questions.CLASSES[self.photos.labels[number, 0]], PER_PICTURE, random)
            pairs.append([(question, answer) for _, question, answer in asked])
        for number in easy:
            own = self.asked[int(number)]
            pairs.append(random.sample(own, min(PER_PICTURE, len(own))))
        for shape, colour in self.drawn.labels[drawn]:
            asked = questions.shape_questions(questions.SHAPES[shape], questions.COLOURS[colour], PER_PICTURE, random)
            pairs.append([(question, answer) for _, question, answer in asked])
        return images, labels, pairs


def forward(net: Idefics3ForConditionalGeneration, images: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """ViT states [b, 64, 192], and logits [n, vocabulary] of the positions that have a target."""
    mask = model.packed_mask(packed.segments)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.vision(net, images)
        hidden = model.hidden(net, states, packed.ids, packed.positions, mask)
        logits = net.lm_head(hidden[packed.targets != IGNORE])
    return states, logits.float()


def dev_questions() -> tuple[Tensor, Pairs, list[str]]:
    """The dev split with fixed questions, and the kind of every question in order."""
    parts, rng = data.splits(), Random(99)
    photos, easy = data.load("cifar_train"), data.load("easy_train")
    pairs: Pairs = []
    kinds: list[str] = []
    for number in parts["cifar"]["dev"]:
        label = questions.CLASSES[photos.labels[number, 0]]
        asked = [
            questions.photo_what(label, rng),
            questions.photo_is_a(label, rng),
            questions.photo_property(label, rng),
        ]
        pairs.append([(question, answer) for _, question, answer in asked])
        kinds += [kind for kind, _, _ in asked]
    numbers = list(parts["easy"]["dev"])
    own: dict[int, list[tuple[str, str]]] = {n: [] for n in numbers}
    for question, answer, picture in json.loads((data.BUILD / "easy_train.json").read_text()):
        if picture in own:
            own[picture].append((question, answer))
    for n in numbers:
        pairs.append(own[n])
        kinds += [questions.easy_vqa_kind(answer) for _, answer in own[n]]
    images = np.concatenate([photos.images[parts["cifar"]["dev"]], easy.images[numbers]])
    return pretrain.to_tensor(images), pairs, kinds


@torch.no_grad()
def correct(net: Idefics3ForConditionalGeneration, packer: Packer, images: Tensor, pairs: Pairs) -> list[bool]:
    """Whether the greedy answer equals the reference, for every question in order.

    All reference tokens are the arg max given the reference before them: exactly then greedy decoding gives that answer.
    """
    result: list[bool] = []
    for first in range(0, len(pairs), 64):
        packed = packer(pairs[first : first + 64])
        _, logits = forward(net, model.pixels(images[first : first + 64]), packed)
        where = packed.targets != IGNORE
        hits = logits.argmax(1) == packed.targets[where]
        question = (torch.arange(len(packed.ids))[:, None] * 1000 + packed.segments)[where]
        for number in question.unique():  # ascending: picture by picture, question by question
            result.append(bool(hits[question == number].all()))
    return result


def by_kind(hits: list[bool], kinds: list[str]) -> str:
    values: dict[str, list[bool]] = {}
    for hit, kind in zip(hits, kinds, strict=True):
        values.setdefault(kind, []).append(hit)
    return ", ".join(f"{kind} {np.mean(v):.3f}" for kind, v in values.items())


def save(net: Idefics3ForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Write the bf16 checkpoint in Hugging Face's layout."""
    net.to(torch.bfloat16).save_pretrained(OUTPUT)
    net.float()
    words.save_pretrained(OUTPUT)
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": 4 * model.IMAGE_SIZE},
        "max_image_size": {"longest_edge": model.IMAGE_SIZE},
        "do_image_splitting": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": True,
        "resample": 1,
    }
    (OUTPUT / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--lr", type=float, default=2e-3, help="of the language model; the vision tower takes half")
    args = parser.parse_args()
    words, net, probe = pretrain.build()
    tower = net.model.vision_model
    first = 0
    saved = torch.load(CHECKPOINT if CHECKPOINT.exists() else pretrain.CHECKPOINT, weights_only=True)
    probe.load_state_dict(saved["probe"])
    ours = set(tower.parameters())
    groups = {scale: [(n, p) for n, p in net.named_parameters() if (p in ours) == (scale == 0.5)] for scale in (0.5, 1.0)}
    opts = []
    for scale, named in groups.items():
        matrices = [p for n, p in named if pretrain.is_matrix(n, p)]
        rest = [p for n, p in named if not pretrain.is_matrix(n, p)]
        if scale == 0.5:
            rest += probe.parameters()
        for opt in pretrain.optimizers(matrices, rest, args.lr * scale, 0.05):
            for group in opt.param_groups:
                group["base"] = args.lr * scale
            opts.append(opt)
    if "model" in saved:
        net.load_state_dict(saved["model"])
        for opt, state in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(state)
        first = saved["step"]
    else:
        tower.load_state_dict(saved["tower"])
    packer, source, dev = Packer(words), Source(), dev_questions()
    began, losses = time.time(), []
    for step in range(first, args.steps):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["base"] * pretrain.trapezoid(step, args.steps, final=0.0, decay=0.6)
        images, labels, pairs = source.questions(step)
        packed = packer(pairs)
        states, logits = forward(net, images, packed)
        answer_loss = functional.cross_entropy(logits, packed.targets[packed.targets != IGNORE])
        loss = answer_loss + 0.5 * probe.loss(states, *labels)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        losses.append(answer_loss.item())
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * len(images) / (time.time() - began)
            print(f"step {step + 1} loss {np.mean(losses[-50:]):.4f} {rate:.0f} pictures/s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            net.eval()
            print("dev", by_kind(correct(net, packer, dev[0], dev[1]), dev[2]), flush=True)
            net.train()
            state = {"model": net.state_dict(), "probe": probe.state_dict(), "step": step + 1}
            state["opts"] = [opt.state_dict() for opt in opts]
            torch.save(state, CHECKPOINT.with_suffix(".tmp"))
            CHECKPOINT.with_suffix(".tmp").replace(CHECKPOINT)
    save(net, words)


if __name__ == "__main__":
    main()
