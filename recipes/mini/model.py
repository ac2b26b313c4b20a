"""The embedded model's configuration, and its forward pass laid out for training.

The modules are `transformers`' own (`Idefics3ForConditionalGeneration`), so what is trained is exactly what the converter
reads. Only the order of calls is ours: all questions of a picture are packed behind one image prefix.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Idefics3Config, Idefics3ForConditionalGeneration


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. Every row length is a multiple of 256, which K-quants need."""

    image: int = 128  # pixels
    patch: int = 16
    scale: int = 2  # pixel shuffle: scale x scale patches become one image token
    width: int = 256  # of the vision tower
    mlp: int = 768
    layers: int = 6
    heads: int = 4
    lm_width: int = 256
    lm_mlp: int = 768
    lm_layers: int = 4

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def image_tokens(self) -> int:
        return self.patches // self.scale**2


SHIPPED = Shape()


def config(vocabulary: int, image_token: int, end_token: int, pad_token: int, shape: Shape = SHIPPED) -> Idefics3Config:
    made = Idefics3Config(
        image_token_id=image_token,
        scale_factor=shape.scale,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": shape.width,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "image_size": shape.image,
            "patch_size": shape.patch,
            "hidden_act": "gelu_pytorch_tanh",
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": shape.lm_width,
            "intermediate_size": shape.lm_mlp,
            "num_hidden_layers": shape.lm_layers,
            "num_attention_heads": shape.lm_width // 64,
            "num_key_value_heads": max(1, shape.lm_width // 128),
            "head_dim": 64,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "bos_token_id": None,
            "eos_token_id": end_token,
            "pad_token_id": pad_token,
            "tie_word_embeddings": False,
        },
    )
    made._attn_implementation = "eager"  # at these lengths three times faster on a CPU than the fused kernel, backward
    return made


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: large tensors otherwise go back to the system after each use, and faulting their
    pages in again is a third of the training time on a CPU."""
    libc = ctypes.CDLL(None)
    for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(parameter, 2**31 - 1)


def pixels(images: Tensor) -> Tensor:
    """Values 0..255 -> [-1, 1], rounded to float16 as llama.cpp's patch convolution does."""
    return ((images.float() - 127.5) / 127.5).half().float()


def vision(model: Idefics3ForConditionalGeneration, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Normalised pixels [b, 3, h, w] -> ViT states [b, patches, width]. `keep` [b, k] looks at k of the patches
    (PatchDropout, Liu et al. 2022: the cost falls with the patches, the position embeddings say where they were)."""
    tower = model.model.vision_model
    size, width = tower.config.patch_size, tower.config.hidden_size
    b, _, h, w = images.shape
    # patch convolution as one matrix product: several times faster on a CPU
    cut = images.reshape(b, 3, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 3 * size * size)
    positions = tower.embeddings.position_embedding.weight
    if keep is not None:
        cut = cut.gather(1, keep[..., None].expand(-1, -1, cut.shape[-1]))
        positions = positions[keep]
    convolution = tower.embeddings.patch_embedding
    states = functional.linear(cut, convolution.weight.reshape(width, -1), convolution.bias) + positions
    states = tower.encoder(inputs_embeds=states, attention_mask=None).last_hidden_state
    return tower.post_layernorm(states)


class Probe(nn.Module):
    """Linear heads on the ViT's states, a teacher signal for the vision tower; not part of the shipped model: the class of
    a photo from the mean state; from a patch's state what each half of it shows, and whether it holds the middle of a thing.
    The latter also add up to the number of things, so that the language model can count by adding up patches."""

    def __init__(self, width: int, classes: int, seen: int) -> None:
        super().__init__()
        self.seen = seen
        self.photo, self.patch = nn.Linear(width, classes), nn.Linear(width, 2 * seen)
        self.middle = nn.Linear(width, 1)

    def loss(self, states: Tensor, photo: Tensor, patch: Tensor, middle: Tensor | None = None) -> Tensor:
        """Mean cross-entropy; a label of -100 does not count. photo [b], patch [b, patches, 2], middle [b, patches]."""
        total = functional.cross_entropy(self.photo(states.float().mean(1)), photo, label_smoothing=0.1)
        some = (patch[..., 0] >= 0).any(1)
        logits = self.patch(states[some]).float().reshape(-1, self.seen)
        patch = patch[some].reshape(-1)
        weight = torch.where(patch > 0, 1.0, 0.15)  # most of a picture is background
        each = functional.cross_entropy(logits, patch, reduction="none")
        total = total + (each * weight).sum() / weight.sum()
        if middle is not None:
            known = middle[:, 0] >= 0
            logits, middle = self.middle(states[known]).float()[..., 0], middle[known]  # [b, patches]
            total = total + 4 * functional.binary_cross_entropy_with_logits(logits, middle)
            total = total + 0.2 * functional.smooth_l1_loss(logits.sigmoid().sum(1), middle.sum(1))
        return total


def packed_mask(segments: Tensor) -> Tensor:
    """Additive attention mask of packed questions. segments [b, t]: 0 the image prefix, 1.. the questions, -1 padding.

    Each question sees the prefix and its own past. Returns bfloat16 [b, 1, t, t].
    """
    t = segments.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    allowed = ((same | prefix) & causal)[:, None]
    return torch.zeros(allowed.shape, dtype=torch.bfloat16).masked_fill(~allowed, torch.finfo(torch.bfloat16).min)


def hidden(model: Idefics3ForConditionalGeneration, states: Tensor, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """ViT states [b, patches, width] and packed token ids [b, t] -> final LM states [b, t, lm width]."""
    image = model.model.connector(states)
    embeds = model.model.text_model.embed_tokens(ids)
    where = (ids == model.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(where, image.to(embeds.dtype))
    return model.model.text_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
