"""Small random checkpoints of architectures that we do not convert: llama.cpp's own converter makes pairs of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.converters import tokenizers
from tests.converters.random_checkpoints import CLIP_STATISTICS, TEXT, perturb

PLAIN = {key: value for key, value in TEXT.items() if key not in ("model_type", "pad_token_id", "bos_token_id", "eos_token_id")}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Pair:
    """build: writes tokenizer and processor, makes the net. values: float [3, h, w], of one picture -> what the net takes.
    expanded: rows, columns of tokens -> what the processor writes in place of `mark`, what the chat template has for a picture.
    token: the one that stands for embeddings. typed: the net is told which tokens are a picture's."""

    build: Callable[[Path], Any]
    values: Callable[[torch.Tensor], dict[str, Any]]
    mark: str
    token: str
    expanded: Callable[[int, int], str]
    typed: bool = False
    unit: int = 0  # side of the pixels that make a token, and sizes of pictures that llama.cpp leaves alone, where it cuts them
    sizes: tuple[tuple[int, int], ...] = ()
    classes: tuple[tuple[str, str], ...] = ()  # see `upstream.as_it_wants`
    renamed: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    seed: int = 0  # one whose answers hold no image token, which `transformers` would take for a picture's


def turn(begin: str, picture: str, end: str, bos: str = "") -> str:
    """A chat template of one kind: begin, picture and text in their order, end."""
    end = end.replace("\n", "{{ '\\n' }}")  # one behind a block would go
    return (
        f"{bos}{{% for message in messages %}}{begin}"
        f"{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}"
        f"{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{picture}{{% else %}}{{{{ part['text'] }}}}"
        f"{{% endif %}}{{% endfor %}}{{% endif %}}{end}{{% endfor %}}"
    )


def words(
    folder: Path, template: str, special: tuple[str, ...], eos: str, bos: str | None = None
) -> tuple[int, dict[str, int]]:
    """A byte-level tokenizer with these special tokens; how many rows its embedding has, and ids by token."""
    used = tokenizers.qwen2(folder, template, special, bos)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return used, {entry["content"]: entry["id"] for entry in found}


def processor(folder: Path, **more: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**CLIP_STATISTICS, **more}))


def merged(value: torch.Tensor, patch: int = 14, frames: int = 2) -> dict[str, Any]:
    """Rows of patches, 2 x 2 neighbours together, as Qwen2-VL's processor writes them."""
    rows, columns = value.shape[1] // patch, value.shape[2] // patch
    cut = value.expand(frames, 3, -1, -1).reshape(frames, 3, rows // 2, 2, patch, columns // 2, 2, patch)
    flat = cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)
    return {"pixel_values": flat, "image_grid_thw": torch.tensor([[1, rows, columns]])}


# -- Pixtral's tower, in Mistral 3 and LightOnOCR ------------------------------------------------------------------------

PIXTRAL = {**TOWER, "patch_size": 14, "image_size": 560, "head_dim": 16, "hidden_act": "silu"}


def _mistral3(folder: Path) -> Any:
    special = ("<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    used, ids = words(folder, turn("[INST]", "[IMG]", "[/INST]", "{{ bos_token }}"), special, "</s>", "<s>")
    processor(folder, patch_size=14, size={"longest_edge": 560}, spatial_merge_size=2)
    text = {**PLAIN, "model_type": "mistral", "vocab_size": used, "head_dim": 16, "sliding_window": None, "rope_theta": 1e6}
    text |= {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    return hf.Mistral3ForConditionalGeneration(
        hf.Mistral3Config(
            text_config=text,
            vision_config={**PIXTRAL, "model_type": "pixtral"},
            image_token_index=ids["[IMG]"],
            tie_word_embeddings=False,
        )
    )


def _lighton(folder: Path) -> Any:
    template = turn("<|im_start|>{{ message['role'] }}\n", "<|image_pad|>", "<|im_end|>\n<|im_start|>assistant\n")
    used, ids = words(folder, template, (), "<|im_end|>")
    processor(folder, patch_size=14, size={"longest_edge": 560}, spatial_merge_size=2)
    text = {**PLAIN, "model_type": "qwen3", "vocab_size": used, "head_dim": 16, "eos_token_id": ids["<|im_end|>"]}
    return hf.LightOnOcrForConditionalGeneration(
        hf.LightOnOcrConfig(
            text_config=text,
            vision_config={**PIXTRAL, "model_type": "pixtral"},
            image_token_id=ids["<|image_pad|>"],
            tie_word_embeddings=False,
        )
    )


def _sized(value: torch.Tensor) -> dict[str, Any]:
    return {"pixel_values": value[None], "image_sizes": torch.tensor([value.shape[1:]])}


# -- towers like Qwen2-VL's ------------------------------------------------------------------------------------------------


def _paddleocr(folder: Path) -> Any:
    special = ("<|begin_of_sentence|>", "</s>", "<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>")
    picture = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    template = turn("User: ", picture, "\nAssistant:\n", "<|begin_of_sentence|>")
    used, ids = words(folder, template, special, "</s>", "<|begin_of_sentence|>")
    processor(folder, patch_size=14, merge_size=2, temporal_patch_size=1, min_pixels=56 * 56, max_pixels=28 * 28 * 256)
    text = {**PLAIN, "vocab_size": used, "head_dim": 16, "rope_parameters": MROPE, "use_bias": False}
    text |= {"bos_token_id": ids["<|begin_of_sentence|>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<|endoftext|>"]}
    return hf.PaddleOCRVLForConditionalGeneration(
        hf.PaddleOCRVLConfig(
            text_config=text,
            vision_config={**TOWER, "patch_size": 14, "image_size": 112},
            image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|IMAGE_START|>"],
            vision_end_token_id=ids["<|IMAGE_END|>"],
            tie_word_embeddings=False,
        )
    )


def _rows(value: torch.Tensor, patch: int = 14, *, flat: bool = False) -> dict[str, Any]:
    rows, columns = value.shape[1] // patch, value.shape[2] // patch
    cut = (
        value.reshape(3, rows, patch, columns, patch)
        .permute(1, 3, 0, 2, 4)
        .reshape(rows * columns, *((-1,) if flat else (3, patch, patch)))
    )
    return {"pixel_values": cut, "image_grid_thw": torch.tensor([[1, rows, columns]])}


def _glm4v(folder: Path) -> Any:
    special = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>", "<|image|>")
    special += ("<|video|>", "<|begin_of_video|>", "<|end_of_video|>", "<|system|>", "<|observation|>")
    picture = "<|begin_of_image|><|image|><|end_of_image|>"
    used, ids = words(folder, turn("<|user|>\n", picture, "<|assistant|>\n", "[gMASK]<sop>"), special, "<|endoftext|>")
    processor(folder, patch_size=14, merge_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 256})
    text = {**PLAIN, "vocab_size": used, "eos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"]}
    text |= {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}
    tower = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 64, "image_size": 112}
    return hf.Glm4vForConditionalGeneration(
        hf.Glm4vConfig(
            text_config=text,
            vision_config=tower,
            image_token_id=ids["<|image|>"],
            video_token_id=ids["<|video|>"],
            image_start_token_id=ids["<|begin_of_image|>"],
            image_end_token_id=ids["<|end_of_image|>"],
            video_start_token_id=ids["<|begin_of_video|>"],
            video_end_token_id=ids["<|end_of_video|>"],
            tie_word_embeddings=False,
        )
    )


# -- others ----------------------------------------------------------------------------------------------------------------


def _janus(folder: Path) -> Any:
    special = ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<begin_of_image>", "<image_placeholder>", "<end_of_image>")
    template = turn("User: ", "<image_placeholder>\n", "\n\nAssistant:", "<|begin_of_sentence|>")
    used, ids = words(folder, template, special, "<|end_of_sentence|>", "<|begin_of_sentence|>")
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(grey))
    text = {**PLAIN, "model_type": "llama", "vocab_size": used, "tie_word_embeddings": False}
    text |= {"bos_token_id": ids["<|begin_of_sentence|>"], "eos_token_id": ids["<|end_of_sentence|>"]}
    tower = {key: value for key, value in TOWER.items() if key != "intermediate_size"}
    tower |= {"image_size": 64, "patch_size": 16, "mlp_ratio": 2.0, "projection_dim": 64, "num_image_tokens": 16}
    drawing = {
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "latent_channels": 32,
        "num_embeddings": 16,
    }  # never used here
    return hf.JanusForConditionalGeneration(
        hf.JanusConfig(
            text_config=text,
            vision_config=tower,
            vq_config={**drawing, "projection_dim": 64, "image_token_embed_dim": 64},
            image_token_id=ids["<image_placeholder>"],
            tie_word_embeddings=False,
        )
    )


def _minicpm(folder: Path) -> Any:
    special = ("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unk>")
    template = turn("<|im_start|>{{ message['role'] }}\n", "<unk>", "<|im_end|>\n<|im_start|>assistant\n")
    used, ids = words(folder, template, special, "<|im_end|>")
    grey = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "scale_resolution": 224,
        "patch_size": 14,
        "downsample_mode": "16x",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(grey))
    tower = {**TOWER, "image_size": 980, "patch_size": 14}  # llama.cpp knows no other table of positions
    return hf.MiniCPMV4_6ForConditionalGeneration(
        hf.MiniCPMV4_6Config(
            text_config=_gated_delta(used, ids["<|im_end|>"]),
            vision_config=tower,
            insert_layer_id=1,
            image_size=224,
            image_token_id=ids["<unk>"],
            video_token_id=ids["<|video_pad|>"],
            tie_word_embeddings=False,
        )
    )


def _packed(value: torch.Tensor, patch: int = 14) -> dict[str, Any]:
    rows, columns = value.shape[1] // patch, value.shape[2] // patch
    cut = value.reshape(3, rows, patch, columns, patch).permute(0, 2, 1, 3, 4).reshape(1, 3, patch, -1)
    return {"pixel_values": cut, "target_sizes": torch.tensor([[rows, columns]], dtype=torch.int32)}


def _qwen3_5(folder: Path) -> Any:
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    template = turn("<|im_start|>{{ message['role'] }}\n", picture, "<|im_end|>\n<|im_start|>assistant\n")
    used, ids = words(folder, template, (), "<|im_end|>")
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16, "merge_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(grey))
    tower = {"depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
    return hf.Qwen3_5ForConditionalGeneration(
        hf.Qwen3_5Config(
            text_config=_gated_delta(used, ids["<|im_end|>"]),
            vision_config={**tower, "num_position_embeddings": 144},
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=False,
        )
    )


def _gemma4(folder: Path) -> Any:
    special = ("<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio>", "<audio|>", "<|audio|>")
    template = turn("<|turn>user\n", "<|image|>", "<turn|>\n<|turn>model\n", "{{ bos_token }}")
    used = tokenizers.gemma(folder, template, special)
    found = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in found}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.0] * 3, "image_std": [1.0] * 3}))
    text = {**PLAIN, "vocab_size": used, "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 32, "sliding_window": 64}
    text |= {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": used, "num_kv_shared_layers": 0}
    text |= {"eos_token_id": ids["<eos>"], "bos_token_id": ids["<bos>"], "pad_token_id": ids["<pad>"]}
    text |= {"use_bidirectional_attention": "vision", "tie_word_embeddings": True}
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16}
    tower |= {"num_key_value_heads": 4, "position_embedding_size": 64}
    return hf.Gemma4ForConditionalGeneration(
        hf.Gemma4Config(
            text_config=text,
            vision_config=tower,
            image_token_id=ids["<|image|>"],
            video_token_id=ids["<|video|>"],
            boi_token_id=ids["<|image>"],
            eoi_token_id=ids["<image|>"],
            boa_token_id=ids["<|audio>"],
            eoa_token_index=ids["<audio|>"],
            audio_token_id=ids["<|audio|>"],
        )
    )


def _placed(value: torch.Tensor, patch: int = 16) -> dict[str, Any]:
    rows, columns = value.shape[1] // patch, value.shape[2] // patch
    flat = value.reshape(3, rows, patch, columns, patch).permute(1, 3, 2, 4, 0).reshape(1, rows * columns, -1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return {"pixel_values": flat, "image_position_ids": torch.stack([x, y], -1).reshape(1, -1, 2)}


def _gated_delta(used: int, eos: int) -> dict[str, Any]:
    """Qwen3.5's LM: three layers of linear attention to one of full."""
    text = {
        **PLAIN,
        "model_type": "qwen3_5_text",
        "rms_norm_eps": 1e-6,
        "vocab_size": used,
        "head_dim": 32,
        "eos_token_id": eos,
    }
    text |= {"num_hidden_layers": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2}
    text |= {"linear_num_value_heads": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
    return text | {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5, "mrope_interleaved": True}}


def _repeated(token: str) -> Callable[[int, int], str]:
    return lambda rows, columns: token * (rows * columns)


def _pixtral_rows(rows: int, columns: int) -> str:
    return "[IMG_BREAK]".join(["[IMG]" * columns] * rows) + "[IMG_END]"


PAIRS = {
    "mistral3": Pair(_mistral3, _sized, "[IMG]", "[IMG]", _pixtral_rows),
    "lighton_ocr": Pair(
        *(_lighton, _sized, "<|image_pad|>", "<|image_pad|>", _repeated("<|image_pad|>")),
        classes=(("", "LightOnOCRForConditionalGeneration"), ("text_config", "Qwen3ForCausalLM")),
    ),
    "paddleocr_vl": Pair(
        *(_paddleocr, _rows, "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_PLACEHOLDER|>", _repeated("<|IMAGE_PLACEHOLDER|>"), True),
        classes=(("vision_config", "PaddleOCRVisionModel"),),
    ),
    "glm4v": Pair(_glm4v, merged, "<|image|>", "<|image|>", _repeated("<|image|>"), True),
    "janus": Pair(
        *(_janus, lambda value: {"pixel_values": value[None]}, "<image_placeholder>", "<image_placeholder>"),
        lambda rows, columns: f"<begin_of_image>{'<image_placeholder>' * 16}<end_of_image>",
    ),
    "minicpmv4_6": Pair(
        *(_minicpm, _packed, "<unk>", "<unk>", lambda rows, columns: f"<image>{'<unk>' * (rows * columns)}</image>"),
        unit=56,
        sizes=((224, 224),) * 2,
        flags=("--no-mtp",),
    ),
    "gemma4": Pair(
        *(_gemma4, _placed, "<|image|>", "<|image|>"),
        lambda rows, columns: f"<|image>{'<|image|>' * (rows * columns)}<image|>",
        typed=True,
    ),
    "qwen3_5": Pair(
        *(_qwen3_5, lambda value: merged(value, 16), "<|image_pad|>", "<|image_pad|>", _repeated("<|image_pad|>"), True),
        flags=("--no-mtp",),
        seed=1,
    ),
}


def make(folder: Path, kind: str) -> Path:
    """Write a checkpoint whose weights half precision holds exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(PAIRS[kind].seed)
    net = PAIRS[kind].build(folder)
    perturb(net)
    net.half().float().save_pretrained(folder)
    return folder
