"""Augmentation on batches of pictures in torch: cheap, and in the direction of what cameras do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def geometry(
    images: Tensor, generator: torch.Generator, zoom: tuple[float, float], shift: float, flip: bool, out: int
) -> Tensor:
    """Random zoom, aspect, shift and mirror, to `out` pixels. images float [b, 3, h, w]; the border is reflected."""
    b = len(images)
    scale, aspect = 1 / uniform(b, *zoom, generator), uniform(b, 0.9, 1.1, generator)
    theta = torch.zeros(b, 2, 3)
    mirror = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0) if flip else 1.0
    theta[:, 0, 0], theta[:, 1, 1] = scale * aspect * mirror, scale / aspect
    theta[:, 0, 2], theta[:, 1, 2] = (uniform(b, -shift, shift, generator) for _ in range(2))
    grid = functional.affine_grid(theta, [b, 3, out, out], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def paste(images: Tensor, backgrounds: Tensor, generator: torch.Generator, side: tuple[float, float]) -> Tensor:
    """Each picture at a random place and size on a background of its own. `side`: range of the share of the frame."""
    b = len(images)
    share = uniform(b, *side, generator)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / share
    for axis in range(2):
        theta[:, axis, 2] = uniform(b, -1, 1, generator) * (1 - share) / share
    grid = functional.affine_grid(theta, list(backgrounds.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(-1)[:, None]
    small = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside, small, backgrounds)


def colour(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Random brightness, contrast and saturation on 0..255 values."""
    b = len(images)

    def factor() -> Tensor:
        return 1 + (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1) * strength

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * factor()
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + (images - mean) * factor() + (factor() - 1) * 128).clamp(0, 255)


def camera(images: Tensor, generator: torch.Generator, share: float = 0.15) -> Tensor:
    """On a share of the pictures each: sensor noise, loss of sharpness, bad exposure. Values 0..255."""
    images = images.clone()

    def some() -> Tensor:
        return torch.rand(len(images), generator=generator) < share

    if (chosen := some()).any():
        part = images[chosen]
        small = functional.interpolate(part, scale_factor=0.5, mode="bilinear", antialias=True)
        images[chosen] = functional.interpolate(small, part.shape[-2:], mode="bilinear")
    if (chosen := some()).any():
        part = images[chosen]
        strength = uniform(len(part), 3, 30, generator)[:, None, None, None]
        images[chosen] = part + strength * torch.randn(part.shape, generator=generator)
    if (chosen := some()).any():
        gamma = torch.exp(uniform(int(chosen.sum()), -0.8, 0.8, generator))[:, None, None, None]
        images[chosen] = 255 * (images[chosen].clamp(0, 255) / 255) ** gamma
    return images.clamp(0, 255)
