"""Augmentation on batches of pictures in torch: cheap, and in the direction of what cameras do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def geometry(images: Tensor, generator: torch.Generator, zoom: tuple[float, float], shift: float, flip: bool) -> Tensor:
    """Random zoom, aspect, shift and mirror. images float [b, 3, h, w]; the border is reflected."""
    b = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator) * (high - low) + low

    scale, aspect = 1 / uniform(*zoom), uniform(0.9, 1.1)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = scale * aspect * (torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if flip else 1.0)
    theta[:, 1, 1] = scale / aspect
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-shift, shift), uniform(-shift, shift)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Random brightness, contrast and saturation on 0..255 values."""
    b = len(images)

    def factor() -> Tensor:
        return 1 + (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1) * strength

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * factor()
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + (images - mean) * factor() + (factor() - 1) * 128).clamp(0, 255)
