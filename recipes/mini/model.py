"""The embedded model's configuration, and its forward pass laid out for training.

The modules are `transformers`' own (`Idefics3ForConditionalGeneration`), so what is trained is exactly what the converter
reads. Only the order of calls is ours: all questions of a picture are packed behind one image prefix.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

IMAGE_SIZE, PATCH, SCALE = 64, 8, 2
IMAGE_TOKENS = (IMAGE_SIZE // PATCH // SCALE) ** 2  # 16


def config(vocabulary: int, image_token: int, end_token: int, pad_token: int) -> Idefics3Config:
    """About 6.4 M parameters: ViT 6 x 192, LM 4 x 256 with grouped-query attention."""
    made = Idefics3Config(
        image_token_id=image_token,
        scale_factor=SCALE,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
            "hidden_act": "gelu_pytorch_tanh",
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
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
    """uint8 or float [b, 3, 64, 64] in 0..255 -> [-1, 1], rounded to float16 as llama.cpp's patch convolution does."""
    return ((images.float() - 127.5) / 127.5).half().float()


def vision(model: Idefics3ForConditionalGeneration, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Normalised pixels -> ViT states [b, patches, 192]. `keep` [b, k] looks at k of the 64 patches (PatchDropout,
    Liu et al. 2022: the cost falls with the patches, the position embeddings say where they were)."""
    tower = model.model.vision_model
    states = tower.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
    states = states + tower.embeddings.position_embedding.weight
    if keep is not None:
        states = states.gather(1, keep[..., None].expand(-1, -1, states.shape[-1]))
    states = tower.encoder(inputs_embeds=states, attention_mask=None).last_hidden_state
    return tower.post_layernorm(states)


class Probe(nn.Module):
    """Linear heads on the mean ViT state, a teacher signal for the vision tower; not part of the shipped model."""

    def __init__(self, width: int, classes: int, shapes: int, colours: int) -> None:
        super().__init__()
        self.photo, self.shape, self.colour = (nn.Linear(width, n) for n in (classes, shapes, colours))

    def loss(self, states: Tensor, photo: Tensor, shape: Tensor, colour: Tensor) -> Tensor:
        """Mean cross-entropy; a label of -100 does not count."""
        mean = states.float().mean(1)
        total = functional.cross_entropy(self.photo(mean), photo, label_smoothing=0.1)
        shapes = functional.cross_entropy(self.shape(mean), shape) + functional.cross_entropy(self.colour(mean), colour)
        return total + 0.5 * shapes


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
    """ViT states [b, 64, 192] and packed token ids [b, t] -> final LM states [b, t, 256]."""
    image = model.model.connector(states)  # [b, 16, 256]
    embeds = model.model.text_model.embed_tokens(ids)
    where = (ids == model.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(where, image.to(embeds.dtype))
    return model.model.text_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
