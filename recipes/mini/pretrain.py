"""Stage 1: the vision tower alone, by plain classification of photos and drawn shapes.

    python -m recipes.mini.pretrain --steps 1800

Trained on questions alone, a small model learns colours and never shapes; a few minutes of classification first removes
that. Photos and shapes are mixed 4:1; every step looks at a random 28 of the 64 patches (PatchDropout).
Hidden matrices are trained by Muon (Jordan et al. 2024), the rest by AdamW. Resumes from `build/mini/pretrain.pt`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from recipes.mini import augment, data, model, tokenizer

BATCH_PHOTOS, BATCH_SHAPES, PATCHES = 208, 48, 28
CHECKPOINT = data.BUILD / "pretrain.pt"


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
    """Draws augmented batches of photos and of shapes, split `train` only."""

    def __init__(self) -> None:
        parts = data.splits()
        self.photos, self.easy, self.drawn = data.load("cifar_train"), data.load("easy_train"), data.load("drawn")
        self.photo_numbers = np.array(parts["cifar"]["train"])
        easy = np.array(parts["easy"]["train"])
        self.easy_numbers = easy[(self.easy.labels[easy] >= 0).all(1)]

    def photo_batch(self, step: int, n: int) -> np.ndarray:
        """Numbers of the photos of a step, in epochs: every picture once before any comes again."""
        epoch, first = divmod(step * n, len(self.photo_numbers))
        order = [np.random.default_rng([7, epoch + later]).permutation(self.photo_numbers) for later in range(2)]
        return np.sort(np.concatenate(order)[first : first + n])

    def pictures(
        self, photos: np.ndarray, easy: np.ndarray, drawn: np.ndarray, generator: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Augmented, normalised pixels [b, 3, 64, 64] of the numbered pictures; labels photo, shape, colour (-100: none)."""
        photo_images = to_tensor(self.photos.images[photos])
        shape_images = to_tensor(np.concatenate([self.easy.images[easy], self.drawn.images[drawn]]))
        photo_images = augment.geometry(photo_images, generator, (0.75, 1.25), 0.2, flip=True)
        photo_images = augment.colour(photo_images, generator, 0.3)
        shape_images = augment.geometry(shape_images, generator, (0.9, 1.1), 0.1, flip=True)
        labels = torch.full((len(photo_images) + len(shape_images), 3), -100)
        labels[: len(photos), 0] = torch.from_numpy(self.photos.labels[photos, 0])
        shape_labels = np.concatenate([self.easy.labels[easy], self.drawn.labels[drawn]])
        labels[len(photos) :, 1:] = torch.from_numpy(np.where(shape_labels < 0, -100, shape_labels))
        images = model.pixels(torch.cat([photo_images, shape_images]))
        return images, (labels[:, 0], labels[:, 1], labels[:, 2])

    def batch(self, step: int, photos: int, shapes: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """A batch of stage 1; a quarter of the shapes are easy-VQA's, the rest drawn."""
        rng, generator = np.random.default_rng(step), torch.Generator().manual_seed(step)
        easy = rng.choice(self.easy_numbers, shapes // 4)
        drawn = np.sort(rng.integers(0, len(self.drawn.images), shapes - len(easy)))
        return self.pictures(self.photo_batch(step, photos), easy, drawn, generator)


def to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def accuracy(net: Idefics3ForConditionalGeneration, probe: model.Probe) -> str:
    """Accuracy of the linear heads on the dev split."""
    parts, out = data.splits(), []
    for name, split, head, column in (("cifar", "cifar_train", probe.photo, 0), ("easy", "easy_train", probe.shape, 0)):
        pictures, numbers = data.load(split), np.array(parts[name]["dev"])
        numbers = numbers[pictures.labels[numbers, column] >= 0]
        with torch.autocast("cpu", torch.bfloat16):
            states = model.vision(net, model.pixels(to_tensor(pictures.images[numbers])))
        guess = head(states.float().mean(1)).argmax(1).numpy()
        out.append(f"{name} {np.mean(guess == pictures.labels[numbers, column]):.3f}")
    return ", ".join(out)


def build() -> tuple[PreTrainedTokenizerFast, Idefics3ForConditionalGeneration, model.Probe]:
    """Tokenizer, untrained model and classification heads, the same at every start."""
    model.keep_freed_memory()
    torch.manual_seed(0)
    words = tokenizer.train()
    end = words.convert_tokens_to_ids(tokenizer.END)
    net = Idefics3ForConditionalGeneration(
        model.config(len(words), words.convert_tokens_to_ids("<image>"), end, words.pad_token_id)
    )
    return words, net, model.Probe(net.config.vision_config.hidden_size, 10, 3, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    _, net, probe = build()
    tower = net.model.vision_model
    named = list(tower.named_parameters())
    matrices = [p for name, p in named if is_matrix(name, p)]
    rest = [p for name, p in named if not is_matrix(name, p)] + list(probe.parameters())
    opts = optimizers(matrices, rest, args.lr, 0.05)
    source, first = Source(), 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=True)
        tower.load_state_dict(saved["tower"])
        probe.load_state_dict(saved["probe"])
        for opt, state in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(state)
        first = saved["step"]
    began, losses = time.time(), []
    for step in range(first, args.steps):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * trapezoid(step, args.steps, final=0.25)
        images, labels = source.batch(step, BATCH_PHOTOS, BATCH_SHAPES)
        keep = torch.rand(len(images), 64).argsort(1)[:, :PATCHES]
        with torch.autocast("cpu", torch.bfloat16):
            states = model.vision(net, images, keep)
        loss = probe.loss(states, *labels)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * len(images) / (time.time() - began)
            print(f"step {step + 1} loss {np.mean(losses[-50:]):.3f} {rate:.0f} pictures/s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            print("dev", accuracy(net, probe), flush=True)
            state = {"tower": tower.state_dict(), "probe": probe.state_dict(), "step": step + 1}
            state["opts"] = [opt.state_dict() for opt in opts]
            torch.save(state, CHECKPOINT.with_suffix(".tmp"))
            CHECKPOINT.with_suffix(".tmp").replace(CHECKPOINT)


if __name__ == "__main__":
    main()
