"""Stage 1: the vision tower alone, by plain recognition: the class of a photo, what each half of a patch shows.

    python -m recipes.mini.pretrain --steps 2000

Trained on questions alone, a small model learns colours and never shapes; some minutes of recognition first removes that.
Nearly half of a batch are photos; every step looks at a random half of the patches (PatchDropout). Hidden matrices are
trained by Muon (Jordan et al. 2024), the rest by AdamW. Resumes from `build/mini/pretrain.pt`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from recipes.mini import augment, data, model, scenes, tokenizer

BATCH = {"photos": 116, "things": 72, "writing": 52, "shapes": 16}
CHECKPOINT = data.BUILD / "pretrain.pt"
PASTED = 0.35  # share of the photos that are pasted on a background


def optimizers(matrices: list[Tensor], rest: list[Tensor], lr: float, decay: float) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def trapezoid(step: int, steps: int, final: float, warmup: int = 100, decay: float = 0.5) -> float:
    """Learning-rate factor: linear warm-up, flat, linear decay to `final` over the last `decay` of the steps."""
    left = min(1.0, (steps - step) / (steps * decay))
    return min(1.0, (step + 1) / warmup, final + (1 - final) * left)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Hidden matrices go to Muon; embeddings, the patch convolution, heads, norms and biases do not."""
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


class Source:
    """Draws augmented batches of photos and scenes, split `train` only."""

    def __init__(self) -> None:
        self.photos = data.load("cifar_train")
        self.scenes = {kind: data.load(kind) for kind in data.SCENES}
        self.photo_numbers = np.array(data.splits()["cifar"]["train"])

    def epoch(self, name: str, numbers: np.ndarray, step: int, n: int) -> np.ndarray:
        """Numbers of a step's pictures, in epochs: every picture once before any comes again."""
        epoch, first = divmod(step * n, len(numbers))
        seed = sum(map(ord, name))
        order = np.concatenate([_shuffled(seed, epoch + later, len(numbers)) for later in range(2)])
        return np.sort(numbers[order[first : first + n]])

    def photo_pixels(self, numbers: np.ndarray, generator: torch.Generator) -> Tensor:
        """Photos [n] -> float [n, 3, 128, 128] in 0..255, scaled, shifted, mirrored, some pasted on a background."""
        photos = to_tensor(self.photos.images[numbers])
        whole = augment.geometry(photos, generator, (0.8, 1.3), 0.2, True, scenes.SIZE)
        pasted = torch.rand(len(photos), generator=generator) < PASTED
        if pasted.any():
            backs = self.scenes["backgrounds"].images
            chosen = torch.randint(len(backs), (int(pasted.sum()),), generator=generator).sort().values
            small = augment.geometry(photos[pasted], generator, (0.95, 1.15), 0.08, True, data.SIZE)
            whole[pasted] = augment.paste(small, to_tensor(backs[chosen.numpy()]), generator, (0.45, 0.95))
        return augment.colour(whole, generator, 0.3)

    def scene_pixels(self, kind: str, numbers: np.ndarray, generator: torch.Generator) -> Tensor:
        images = to_tensor(self.scenes[kind].images[numbers])
        return augment.colour(images, generator, 0.15)

    def batch(
        self, step: int, shape: model.Shape = model.SHIPPED, counts: dict[str, int] = BATCH
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised pixels [b, 3, 128, 128]; photo classes [b]; labels of half patches [b, patches, 2]; -100: none."""
        generator = torch.Generator().manual_seed(step)
        rows = shape.image // shape.patch
        images, photo, patch = [], [], []
        for kind, n in counts.items():
            if kind == "photos":
                numbers = self.epoch(kind, self.photo_numbers, step, n)
                images.append(self.photo_pixels(numbers, generator))
                photo.append(torch.from_numpy(self.photos.labels[numbers, 0]))
                patch.append(torch.full((n, rows * rows, 2), -100))
                continue
            source = self.scenes[kind]
            numbers = self.epoch(kind, np.arange(len(source.images)), step, n)
            images.append(self.scene_pixels(kind, numbers, generator))
            photo.append(torch.full((n,), -100))
            labels = torch.from_numpy(source.labels[numbers].astype(np.float32))[:, None]
            if rows != labels.shape[2]:
                labels = functional.interpolate(labels, (rows, 2 * rows), mode="nearest")
            patch.append(labels.long().reshape(n, rows * rows, 2))
        pictures = torch.cat(images)
        if shape.image != scenes.SIZE:
            pictures = functional.interpolate(pictures, (shape.image, shape.image), mode="bilinear", antialias=True)
        return model.pixels(pictures), torch.cat(photo), torch.cat(patch)


def recognition_loss(
    net: Idefics3ForConditionalGeneration, probe: model.Probe, images: Tensor, photo: Tensor, patch: Tensor, kept: int
) -> Tensor:
    """Loss of the recognition heads on `kept` random patches of each picture."""
    keep = torch.rand(len(images), patch.shape[1]).argsort(1)[:, :kept]
    with torch.autocast("cpu", torch.bfloat16):
        states = model.vision(net, images, keep)
        return probe.loss(states, photo, patch.gather(1, keep[..., None].expand(-1, -1, 2)))


@lru_cache(maxsize=64)
def _shuffled(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def accuracy(net: Idefics3ForConditionalGeneration, probe: model.Probe, shape: model.Shape) -> str:
    """Accuracy on photos of the dev split, and of half patches that show something in scenes not trained on."""
    numbers, pictures = np.array(data.splits()["cifar"]["dev"]), data.load("cifar_train")

    def states(images: np.ndarray) -> Tensor:
        resized = functional.interpolate(to_tensor(images), (shape.image, shape.image), mode="bilinear", antialias=True)
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat([model.vision(net, model.pixels(part)) for part in resized.split(250)]).float()

    guess = probe.photo(states(pictures.images[numbers]).mean(1)).argmax(1).numpy()
    out = [f"photos {np.mean(guess == pictures.labels[numbers, 0]):.3f}"]
    rows = shape.image // shape.patch
    for kind, (images, labels) in dev_scenes().items():
        seen = torch.from_numpy(labels.astype(np.float32))[:, None]
        seen = functional.interpolate(seen, (rows, 2 * rows), mode="nearest").long().reshape(len(images), -1, 2)
        logits = probe.patch(states(images)).reshape(len(images), -1, 2, probe.seen)
        out.append(f"{kind} {(logits.argmax(-1) == seen)[seen > 0].float().mean():.3f}")
    return ", ".join(out)


def dev_scenes(n: int = 250) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures and label maps drawn from seeds of their own."""
    from random import Random

    photos = data.load("cifar_train").images[data.splits()["cifar"]["dev"]]
    made = {}
    for kind in ("things", "writing", "shapes"):
        drawn = [scenes.DRAW[kind](Random(f"dev {kind} {i}"), photos) for i in range(n)]
        made[kind] = (np.stack([np.asarray(d.image) for d in drawn]), np.stack([d.labels for d in drawn]))
    return made


def build(shape: model.Shape = model.SHIPPED) -> tuple[PreTrainedTokenizerFast, Idefics3ForConditionalGeneration, model.Probe]:
    """Tokenizer, untrained model and recognition heads, the same at every start."""
    model.keep_freed_memory()
    torch.manual_seed(0)
    words = tokenizer.ready()
    end = words.convert_tokens_to_ids(tokenizer.END)
    net = Idefics3ForConditionalGeneration(
        model.config(len(words), words.convert_tokens_to_ids("<image>"), end, words.pad_token_id, shape)
    )
    return words, net, model.Probe(shape.width, len(data.CLASSES), 1 + len(scenes.SEEN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--keep", type=float, default=0.5, help="share of the patches that a step looks at")
    trial = parser.add_argument_group("trials of other sizes: stop after some minutes, say how good it is, keep nothing")
    trial.add_argument("--minutes", type=float)
    for name, kind in (("image", int), ("patch", int), ("width", int), ("mlp", int), ("layers", int), ("heads", int)):
        trial.add_argument(f"--{name}", type=kind, default=getattr(model.SHIPPED, name))
    args = parser.parse_args()
    names = ("image", "patch", "width", "mlp", "layers", "heads")
    shape = dataclasses.replace(model.SHIPPED, **{name: getattr(args, name) for name in names})
    _, net, probe = build(shape)
    tower = net.model.vision_model
    named = list(tower.named_parameters())
    matrices = [p for name, p in named if is_matrix(name, p)]
    rest = [p for name, p in named if not is_matrix(name, p)] + list(probe.parameters())
    opts = optimizers(matrices, rest, args.lr, 0.05)
    source, first = Source(), 0
    if not args.minutes and CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=True)
        tower.load_state_dict(saved["tower"])
        probe.load_state_dict(saved["probe"])
        for opt, state in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(state)
        first = saved["step"]
    began, losses, step = time.time(), [], first
    kept = round(args.keep * shape.patches)
    total = sum(BATCH.values())
    while step < args.steps:
        progress = step
        if args.minutes:  # the schedule follows the clock, so that a slower model takes fewer steps
            progress = int((time.time() - began) / (60 * args.minutes) * args.steps)
            if progress >= args.steps:
                break
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * trapezoid(progress, args.steps, final=0.0 if args.minutes else 0.25)
        images, photo, patch = source.batch(step, shape)
        loss = recognition_loss(net, probe, images, photo, patch, kept)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            rate = (step - first) * total / (time.time() - began)
            print(f"step {step} loss {np.mean(losses[-50:]):.3f} {rate:.0f} pictures/s", flush=True)
        if not args.minutes and (step % 200 == 0 or step == args.steps):
            print("dev", accuracy(net, probe, shape), flush=True)
            save(CHECKPOINT, {"tower": tower, "probe": probe}, opts, step)
    if args.minutes:
        print(shape, step, "steps: dev", accuracy(net, probe, shape))


def save(path: Path, modules: dict[str, torch.nn.Module], opts: list[torch.optim.Optimizer], step: int) -> None:
    state = {name: part.state_dict() for name, part in modules.items()}
    state |= {"step": step, "opts": [opt.state_dict() for opt in opts]}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    main()
