"""What the pixels of a picture are like, in a few numbers: grey or colourful, flat or grainy, large enough to show anything.

A vision tower is made to overlook much of this; whoever asks whether a picture is like those that are known must not.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 96  # pixels: the picture is reduced to fit, so that the same photo counts as the same at 1 and at 12 megapixels
ENOUGH = 48  # pixels: a longer side says nothing more
ASPECTS = 2.5, 16  # usual and longest: how long a picture is counts between them
BINS = 8  # a colour channel
NAMES = (
    *("shorter_side", "aspect", "light", "contrast", "dark", "bright"),  # log2 pixels, log2, then shares of full light
    *("saturation", "colourful", "most_coloured", "red_green", "yellow_blue"),
    *("commonest_colour", "colours", "flat", "edges_1", "edges_2", "edges_4", "rough", "black", "white", "alike"),
)


Values: TypeAlias = "npt.NDArray[np.floating]"


def pixel_statistics(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Numbers [len(NAMES)] of pixels uint8 [height, width, 3], from a copy of at most `SIDE` pixels a side: 1 to 2 ms."""
    high, wide, _ = pixels.shape
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    codes = np.asarray(image)
    rgb = codes.astype(np.float32) / 255
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    spread = rgb.max(2) - rgb.min(2)
    counts = np.bincount(((codes // (256 // BINS)).astype(np.int64) @ (BINS * BINS, BINS, 1)).ravel(), minlength=BINS**3)
    steps = [(_steps(light, n), _steps(light.T, n)) for n in (1, 2, 4)]
    edges = [np.concatenate([across.ravel(), down.ravel()]) for across, down in steps]
    means, squares = [_mean(values) for values in edges], _mean(edges[0] ** 2)
    across, down = (_mean(values) + 1 / 255 for values in steps[0])
    values = (
        *(np.log2(min(wide, high, ENOUGH)), np.log2(np.clip(max(wide, high) / min(wide, high), *ASPECTS))),
        *(light.mean(), light.std(), *np.quantile(light, (0.05, 0.95))),
        *(spread.mean(), spread.std(), np.quantile(spread, 0.95)),
        *((rgb[..., 0] - rgb[..., 1]).mean(), ((rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]).mean()),
        *(counts.max() / counts.sum(), np.log2((counts > 0).sum()), (edges[0] < 1 / 255).mean() if edges[0].size else 1.0),
        *(np.log2(mean + 1 / 255) for mean in means),
        means[0] ** 2 / squares if squares > 0 else 1.0,  # 2 / pi of Gaussian grain, less where edges stand in calm
        *((light < 0.02).mean(), (light > 0.98).mean()),
        np.log2(across / down),
    )
    return np.array(values, np.float32)


def _steps(light: Values, distance: int) -> Values:
    """How much the light changes over a distance along rows."""
    return np.asarray(np.abs(light[:, distance:] - light[:, :-distance]))


def _mean(values: Values) -> float:
    """0 of a picture that is too narrow for any step."""
    return float(values.mean()) if values.size else 0.0
