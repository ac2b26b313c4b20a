"""Stage 2: the whole model, all questions of a picture packed behind one image prefix.

    python -m recipes.mini.train --steps 4750

Starts from stage 1's vision tower (`build/mini/pretrain.pt`), resumes from `build/mini/train.pt`, and writes the averaged
weights as a bf16 checkpoint to `recipes/mini/checkpoint/` when it is through. The learning rate is flat until the last
`--decay` of the steps, so that a run may be given more steps until then. The recognition heads of stage 1 stay attached as a
second loss, also on further pictures that only the tower sees (half of their patches: cheap), so that it keeps learning.
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

from recipes.mini import augment, data, model, pretrain, questions, scenes
from recipes.mini.packing import IGNORE, Packed, Packer
from recipes.mini.questions import Question

BATCH = {"photos": 22, "things": 50, "writing": 48, "shapes": 28, "easy": 3, "backgrounds": 2}
ALONE = {"photos": 44, "things": 12, "writing": 32, "shapes": 4}  # for the tower alone, as in stage 1
PER_PICTURE, LIMIT = 6, 114  # questions, and tokens of a row: the longest row makes all others as long
AVERAGE = 0.998  # decay of the weights' moving average, per step
CHECKPOINT = data.BUILD / "train.pt"
OUTPUT = Path("recipes/mini/checkpoint")
Asked = list[list[Question]]


def photo(label: int) -> scenes.Scene:
    return scenes.Scene("photo", (scenes.Item(data.CLASSES[label], 64, 64, 128),))


def easy_questions(split: str) -> dict[int, list[Question]]:
    """easy-VQA's own questions by picture."""
    asked: dict[int, list[Question]] = {}
    for question, answer, picture in json.loads((data.BUILD / f"easy_{split}.json").read_text()):
        asked.setdefault(picture, []).append((f"easy-VQA: {questions.easy_vqa_kind(answer)}", question, answer))
    return asked


def middles(scene: scenes.Scene) -> Tensor:
    """Which patches hold the middle of a thing [patches]; -100 where that means nothing."""
    side, size = scenes.SIZE // model.SHIPPED.patch, model.SHIPPED.patch
    found = torch.zeros(side, side)
    if scene.kind in ("photo", "writing"):
        return found.flatten() - 100
    for item in scene.items:
        found[min(side - 1, int(item.y / size)), min(side - 1, int(item.x / size))] = 1
    return found.flatten()


def easy(line: str) -> bool:
    """One thing alone, or a number, price or time: learned early, so half of those pictures do."""
    scene = scenes.from_line(line)
    return (scene.kind == "things" and len(scene.items) == 1) or (scene.kind == "writing" and scene.items[0].name != "word")


class Source(pretrain.Source):
    """Augmented pictures of the training split with questions."""

    def __init__(self) -> None:
        super().__init__()
        self.easy, self.easy_asked = data.load("easy_train"), easy_questions("train")
        self.easy_numbers = np.array(data.splits()["easy"]["train"])
        self.described = {kind: (data.BUILD / f"{kind}.jsonl").read_text().splitlines() for kind in data.SCENES}
        self.numbers = {
            kind: np.array([n for n, line in enumerate(lines) if n % 2 or not easy(line)])
            for kind, lines in self.described.items()
        }

    def questions(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Asked]:
        """Pixels [b, 3, 128, 128]; labels for the recognition heads as in stage 1, and `middles`; each picture's questions."""
        random, generator = Random(f"questions {step}"), torch.Generator().manual_seed(10**6 + step)
        patches = model.SHIPPED.patches
        images, classes, patch, middle, asked = [], [], [], [], []
        for kind, n in BATCH.items():
            photo_classes, seen = torch.full((n,), -100), torch.full((n, patches, 2), -100)  # no label
            described: list[scenes.Scene] = []
            if kind == "photos":
                numbers = self.epoch("stage 2", self.photo_numbers, step, n)
                images.append(self.photo_pixels(numbers, generator))
                labels = self.photos.labels[numbers, 0]
                photo_classes = torch.from_numpy(labels)
                described = [photo(label) for label in labels]
            elif kind == "easy":
                numbers = self.epoch(kind, self.easy_numbers, step, n)
                shapes = pretrain.to_tensor(self.easy.images[numbers])
                images.append(augment.geometry(shapes, generator, (0.9, 1.1), 0.1, True, scenes.SIZE))
                asked += [random.choices(self.easy_asked[int(number)], k=PER_PICTURE) for number in numbers]
            else:
                numbers = self.epoch(f"stage 2 {kind}", self.numbers[kind], step, n)
                images.append(self.scene_pixels(kind, numbers, generator))
                seen = torch.from_numpy(self.scenes[kind].labels[numbers].astype(np.int64)).reshape(n, patches, 2)
                described = [scenes.from_line(self.described[kind][number]) for number in numbers]
            asked += [questions.ask(scene, PER_PICTURE, random, "train") for scene in described]
            middle += [middles(scene) for scene in described] or [torch.full((patches,), -100.0)] * n
            classes.append(photo_classes)
            patch.append(seen)
        pixels = model.pixels(augment.camera(torch.cat(images), generator))
        return pixels, torch.cat(classes), torch.cat(patch), torch.stack(middle), asked


def forward(net: Idefics3ForConditionalGeneration, images: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """ViT states [b, patches, width], and logits [n, vocabulary] of the positions that have a target."""
    mask = model.packed_mask(packed.segments)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.vision(net, images)
        hidden = model.hidden(net, states, packed.ids, packed.positions, mask)
        logits = net.lm_head(hidden[packed.targets != IGNORE])
    return states, logits.float()


def dev_questions() -> tuple[Tensor, Asked]:
    """Pictures and wordings that are not trained on: photos of the dev split, scenes drawn from seeds of their own."""
    random, parts = Random("dev"), data.splits()
    photos, easy = data.load("cifar_train"), data.load("easy_train")
    numbers = parts["cifar"]["dev"]
    generator = torch.Generator().manual_seed(0)
    images = [augment.geometry(pretrain.to_tensor(photos.images[numbers]), generator, (1.0, 1.1), 0.05, False, scenes.SIZE)]
    asked = [questions.ask(photo(photos.labels[n, 0]), 4, random, "dev") for n in numbers]
    backs = photos.images[numbers]
    for kind, count in (("things", 500), ("shapes", 250), ("writing", 400)):
        drawn = [scenes.DRAW[kind](Random(f"dev {kind} {i}"), backs) for i in range(count)]
        images.append(pretrain.to_tensor(np.stack([np.asarray(d.image) for d in drawn])))
        asked += [questions.ask(d.scene, 4, random, "dev") for d in drawn]
    numbers, own = parts["easy"]["dev"], easy_questions("train")
    shapes = pretrain.to_tensor(easy.images[numbers])
    images.append(functional.interpolate(shapes, (scenes.SIZE, scenes.SIZE), mode="bilinear"))
    return torch.cat(images), asked + [own[n] for n in numbers]


@torch.no_grad()
def correct(net: Idefics3ForConditionalGeneration, packer: Packer, images: Tensor, asked: Asked) -> list[bool]:
    """Whether the greedy answer equals the reference, for every question in order.

    All reference tokens are the arg max given the reference before them: exactly then greedy decoding gives that answer.
    """
    result: list[bool] = []
    for first in range(0, len(asked), 64):
        packed = packer(asked[first : first + 64])
        _, logits = forward(net, model.pixels(images[first : first + 64]), packed)
        where = packed.targets != IGNORE
        hits = logits.argmax(1) == packed.targets[where]
        question = (torch.arange(len(packed.ids))[:, None] * 1000 + packed.segments)[where]
        for number in question.unique():  # ascending: picture by picture, question by question
            result.append(bool(hits[question == number].all()))
    return result


def by_kind(hits: list[bool], asked: Asked) -> str:
    values: dict[str, list[bool]] = {}
    for hit, kind in zip(hits, (q[0] for own in asked for q in own), strict=True):
        values.setdefault(kind, []).append(hit)
    return ", ".join(f"{kind} {np.mean(v):.3f}" for kind, v in sorted(values.items()))


def save(net: Idefics3ForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Write the bf16 checkpoint in Hugging Face's layout."""
    net.to(torch.bfloat16).save_pretrained(OUTPUT)
    net.float()
    words.save_pretrained(OUTPUT)
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": 4 * model.SHIPPED.image},
        "max_image_size": {"longest_edge": model.SHIPPED.image},
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
    parser.add_argument("--steps", type=int, default=4750)
    parser.add_argument("--lr", type=float, default=2e-3, help="of the language model; the vision tower takes half")
    parser.add_argument("--decay", type=float, default=0.22, help="share of the steps, at the end, in which the rate falls")
    args = parser.parse_args()
    words, net, probe = pretrain.build()
    _, averaged, _ = pretrain.build()
    tower = net.model.vision_model
    first = 0
    saved = torch.load(CHECKPOINT if CHECKPOINT.exists() else pretrain.CHECKPOINT, weights_only=True)
    probe.load_state_dict(saved["probe"], strict="middle.weight" in saved["probe"])  # stage 1 does not have that head
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
        averaged.load_state_dict(saved["averaged"])
        for opt, state in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(state)
        first = saved["step"]
    else:
        tower.load_state_dict(saved["tower"])
        averaged.load_state_dict(net.state_dict())
    packer, source, dev = Packer(words), Source(), dev_questions()
    began, losses = time.time(), []
    for step in range(first, args.steps):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["base"] * pretrain.trapezoid(step, args.steps, final=0.0, decay=args.decay)
        images, classes, patch, middle, asked = source.questions(step)
        packed = packer(asked, LIMIT)
        states, logits = forward(net, images, packed)
        where = packed.targets != IGNORE
        each = functional.cross_entropy(logits, packed.targets[where], reduction="none")
        answer_loss = (each * packed.weights[where]).sum() / packed.weights[where].sum()
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss + 0.5 * probe.loss(states, classes, patch, middle)
        loss.backward()
        again = source.batch(step, counts=ALONE)
        (0.5 * pretrain.recognition_loss(net, probe, *again, model.SHIPPED.patches // 2)).backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        with torch.no_grad():
            share = 1 - min(AVERAGE, (step + 1) / (step + 10))
            for mean, now in zip(averaged.parameters(), net.parameters(), strict=True):
                mean.lerp_(now, share)
        losses.append(answer_loss.item())
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * len(images) / (time.time() - began)
            print(f"step {step + 1} loss {np.mean(losses[-50:]):.4f} {rate:.0f} pictures/s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            averaged.eval()
            print("dev", by_kind(correct(averaged, packer, *dev), dev[1]), flush=True)
            pretrain.save(CHECKPOINT, {"model": net, "averaged": averaged, "probe": probe}, opts, step + 1)
    save(averaged, words)


if __name__ == "__main__":
    main()
