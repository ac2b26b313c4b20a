"""Small checkpoints with random weights in exact architectures, written by `transformers` itself."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.conftest import CHECKPOINT
from tests.converters import tokenizers

VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 2,
    "bos_token_id": None,
    "eos_token_id": 6,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
CLIP_STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
KINDS = (
    *("blip_2", "gemma3", "idefics3", "instructblip", "instructblip_vicuna", "internvl", "lfm2_vl", "llava"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"),
)
BLIP = tuple(kind for kind in KINDS if "blip" in kind)  # no pairs of gguf files, and no chat templates


def _as_published(folder: Path, kind: str) -> None:
    """Write config.json as the published checkpoints have it, older than `transformers` 5.

    SmolVLM: an integer rope base beside a scaling of null. Qwen2: the LM's keys at the top level.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    if kind == "gemma3":
        scaled = {"factor": 8.0, "rope_type": "linear"}
        text |= {"rope_theta": 1e6, "rope_local_base_freq": 10000, "rope_scaling": scaled, "sliding_window_pattern": 6}
        del text["layer_types"]
    elif kind == "qwen3_vl":
        sections = {"mrope_interleaved": True, "mrope_section": rope["mrope_section"], "rope_type": "default"}
        text |= {"rope_theta": rope["rope_theta"], "rope_scaling": sections}
    elif kind.startswith("qwen"):
        text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
        del config["text_config"]
        config = text | config
    else:
        text |= {"rope_theta": 100000, "rope_scaling": None}
    path.write_text(json.dumps(config))


def _version_1_1(folder: Path) -> None:
    """What tells Flan-T5 from the first T5, which `transformers` 5 does not write."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))


def perturb(net: torch.nn.Module) -> None:
    """Make every part matter: norms and biases away from 1 and 0, matrices large enough to carry the picture to the answer."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif parameter.any():
                parameter.mul_(2.5)
            else:  # Gemma 3's projector begins with nothing
                parameter.normal_(0, 0.1)


def make(
    folder: Path,
    kind: str,
    *,
    tied: bool = False,
    shards: bool = False,
    published: bool = False,
    dtype: Any = torch.float32,
    **text: Any,
) -> Path:
    """Write a checkpoint of `kind`: Idefics3 and SmolVLM with the embedded model's tokenizer, others with small ones."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = BUILD[kind](folder, tied, text) if kind in BUILD else _idefics3(folder, kind, tied, text)
    perturb(net)
    net.to(dtype).save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")
    if "blip" in kind:
        _version_1_1(folder)
    if published:
        _as_published(folder, kind)
    return folder


def _idefics3(folder: Path, kind: str, tied: bool, text: dict[str, Any]) -> Any:
    base = json.loads((CHECKPOINT / "config.json").read_text())
    config_class, model_class = {
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    }[kind]
    vocabulary, side = base["text_config"]["vocab_size"], text.get("image_size", 32)
    text = {key: value for key, value in text.items() if key != "image_size"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(CHECKPOINT / name, folder / name)
    processor = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    processor |= {"size": {"longest_edge": 2 * side}, "max_image_size": {"longest_edge": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model_class(
        config_class(
            vision_config=VISION | {"image_size": side},
            text_config={**TEXT, "vocab_size": vocabulary, "tie_word_embeddings": tied, **text},
            image_token_id=base["image_token_id"],
            scale_factor=2,
            tie_word_embeddings=tied,
        )
    )


def _qwen_text(folder: Path, tied: bool, text: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    used = tokenizers.qwen2(folder)
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in found}
    processor = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280, "patch_size": 14, "merge_size": 2, **CLIP_STATISTICS}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = {
        **{key: value for key, value in TEXT.items() if key not in ("model_type", "pad_token_id", "eos_token_id")},
        "vocab_size": used + 5,  # more rows than tokens, and an odd number of them, as in Qwen2-VL
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "eos_token_id": ids["<|im_end|>"],
        **text,
    }
    roles = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    roles |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return made, {role: ids[token] for role, token in roles.items()} | {"tie_word_embeddings": tied}


def _qwen2_vl(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    made, ids = _qwen_text(folder, tied, text)
    tower = {"depth": 3, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=made, vision_config=tower, **ids))


def _qwen2_5_vl(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    made, ids = _qwen_text(folder, tied, text)
    tower = {
        **{"depth": 4, "hidden_size": 64, "intermediate_size": 100, "num_heads": 4, "out_hidden_size": 64},
        "fullatt_block_indexes": [1, 3],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=made, vision_config=tower, **ids))


def _qwen3_vl(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [3, 3, 2], "mrope_interleaved": True}
    # one layer more than get features of the tower
    made, ids = _qwen_text(folder, tied, {"head_dim": 16, "num_hidden_layers": 3, "rope_parameters": rope, **text})
    processor = {"size": {"shortest_edge": 2**16, "longest_edge": 2**24}, "patch_size": 16, "merge_size": 2}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tower = {
        **{"depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64},
        **{"num_position_embeddings": 144, "deepstack_visual_indexes": [1, 2]},
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=made, vision_config=tower, **ids))


def _gemma3(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    used = tokenizers.gemma(folder)
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in found}
    side = {"height": 64, "width": 64}
    processor = {"size": side, "image_seq_length": 4, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = {
        **{key: value for key, value in TEXT.items() if key not in ("model_type", "pad_token_id", "bos_token_id")},
        **{"num_hidden_layers": 6, "vocab_size": used, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
        **{"eos_token_id": ids["<eos>"], "bos_token_id": ids["<bos>"], "pad_token_id": ids["<pad>"]},
        **text,
    }
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=made,
            vision_config={**VISION, "image_size": 64},
            mm_tokens_per_image=4,
            image_token_index=ids["<image_soft_token>"],
            boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"],
        )
    )


def _internvl(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    used = tokenizers.qwen2(folder, tokenizers.INTERNVL_TEMPLATE, tokenizers.INTERNVL_SPECIAL)
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in found}
    processor = {"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 12, "crop_to_patches": True}
    processor |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    kind = {"model_type": "qwen2", "vocab_size": used + 5, "eos_token_id": ids["<|im_end|>"], "tie_word_embeddings": tied}
    made = {key: value for key, value in TEXT.items() if key != "pad_token_id"} | kind | text
    sizes = {"image_size": [32, 32], "patch_size": [8, 8], "use_qk_norm": False, "attention_bias": True}
    sizes |= {"num_hidden_layers": 4}  # llama.cpp's converter knows no fewer
    return InternVLForConditionalGeneration(
        InternVLConfig(
            text_config=made,
            vision_config=VISION | sizes,
            image_token_id=ids["<IMG_CONTEXT>"],
            image_seq_length=4,
            downsample_ratio=0.5,
            tie_word_embeddings=tied,
        )
    )


def _lfm2_vl(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    used = tokenizers.qwen2(folder, tokenizers.LFM2_TEMPLATE, tokenizers.LFM2_SPECIAL, "<|startoftext|>")
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in found}
    processor = {"encoder_patch_size": 16, "downsample_factor": 2, "min_image_tokens": 64, "max_image_tokens": 256}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = {
        **{key: value for key, value in TEXT.items() if key not in ("model_type", "pad_token_id")},
        **{"vocab_size": used, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
        **{"conv_L_cache": 3, "norm_eps": 1e-5, "block_auto_adjust_ff_dim": True, "block_multiple_of": 32},
        **{"eos_token_id": ids["<|im_end|>"], "bos_token_id": ids["<|startoftext|>"], "pad_token_id": ids["<|endoftext|>"]},
        **text,
    }
    tower = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 256, "patch_size": 16}
    tower |= {"vision_use_head": False, "num_hidden_layers": 3}  # llama.cpp's converter knows no fewer
    return Lfm2VlForConditionalGeneration(
        Lfm2VlConfig(
            text_config=made,
            vision_config=tower,
            image_token_id=ids["<image>"],
            downsample_factor=2,
            projector_hidden_size=96,
        )
    )


def _llava(folder: Path, tied: bool, text: dict[str, Any]) -> Any:
    used = tokenizers.llama(folder)
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    image = next(entry["id"] for entry in found if entry["content"] == "<image>")
    processor = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "resample": 3, **CLIP_STATISTICS}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    made = {**TEXT, "vocab_size": used + 3, "bos_token_id": 1, "eos_token_id": 2, **text}
    tower = {**VISION, "num_hidden_layers": 4, "image_size": 56, "patch_size": 14, "projection_dim": 64}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(**{**made, "tie_word_embeddings": tied}),
            vision_config=CLIPVisionConfig(**tower),
            image_token_index=image,
            image_seq_length=16,
            tie_word_embeddings=tied,
        )
    )


def _blip(folder: Path, tied: bool, text: dict[str, Any], kind: str, lm: str) -> Any:
    side = {"height": 56, "width": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": side, "resample": 3, **CLIP_STATISTICS}))
    if lm == "t5":
        used = tokenizers.t5(folder)
        made = {
            **{
                "model_type": "t5",
                "vocab_size": used + 7,
                "d_model": 64,
                "d_kv": 16,
                "d_ff": 96,
                "num_layers": 2,
                "num_heads": 4,
            },
            **{"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
            **{"initializer_factor": 0.6, "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, **text},
        }
    else:
        used = tokenizers.llama(folder)
        (folder / "chat_template.jinja").unlink()  # BLIP-2 has none
        made = {**TEXT, "vocab_size": used + 3, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": tied, **text}
    image = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<image>")
    sizes = {"image_size": 56, "patch_size": 14, "initializer_range": 0.1}  # BLIP-2's own is next to nothing
    qformer = {
        "initializer_range": 0.1,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
    }
    classes: Any = {
        "blip_2": (Blip2Config, Blip2ForConditionalGeneration),
        "instructblip": (InstructBlipConfig, InstructBlipForConditionalGeneration),
    }
    if kind == "instructblip":
        qformer |= {"vocab_size": tokenizers.bert(folder), "max_position_embeddings": 64}
    config, net = classes[kind]
    built = net(
        config(
            **{"vision_config": VISION | sizes, "qformer_config": qformer, "text_config": made},
            **{"num_query_tokens": 8, "image_token_index": image},
        )
    )
    if lm == "t5":  # Flan-T5 has an output matrix of its own, which `transformers` 5 makes only where a file holds one
        head = built.language_model.lm_head
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * 0.1)
    return built


BUILD = {
    "blip_2": partial(_blip, kind="blip_2", lm="t5"),
    "instructblip": partial(_blip, kind="instructblip", lm="t5"),
    "instructblip_vicuna": partial(_blip, kind="instructblip", lm="llama"),
    "gemma3": _gemma3,
    "internvl": _internvl,
    "lfm2_vl": _lfm2_vl,
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}
