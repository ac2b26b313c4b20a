"""Tokenizer metadata of a gguf, so that llama.cpp tokenises exactly like `tokenizers` does.

Byte-level BPE: the pre-tokenizer is recognised from what `tokenizer.json` says it does, not from a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.checkpoint import Checkpoint
from edge_vqa.errors import EdgeVqaError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType

# The regular expression of Llama 3's pre-tokenizer (tokenizer.json of Meta-Llama-3-8B); llama.cpp calls it llama-bpe.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Tokenizer:
    """What a gguf says of a tokenizer: `tokens`, `types` and `merges` are lists by id, `special` ids by role."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]
    add_bos: bool
    chat_template: str


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name of a `tokenizers` pre-tokenizer."""
    steps = spec.get("pretokenizers", [spec]) if spec else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"]:
        digits, level = steps
        if digits.get("individual_digits") and not level.get("add_prefix_space") and level.get("use_regex", True):
            return "smollm"
    if kinds == ["ByteLevel"] and not steps[0].get("add_prefix_space") and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern", {}).get("Regex") == _LLAMA3:
        return "llama-bpe"
    raise EdgeVqaError(
        f"the pre-tokenizer {' + '.join(str(k) for k in kinds) or 'none'} is not known",
        "use a checkpoint with SmolLM's, GPT-2's or Llama 3's pre-tokenizer",
    )


def _text(value: Any) -> str | None:
    """A special token in tokenizer_config.json: a string, or an object with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def _chat_template(checkpoint: Checkpoint, config: dict[str, Any]) -> str:
    jinja = checkpoint.folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for holder in (checkpoint.json("chat_template.json", required=False), config):
        if isinstance(holder.get("chat_template"), str):
            return str(holder["chat_template"])
    raise EdgeVqaError(f"{checkpoint.folder} holds no chat template", "add chat_template.jinja to the checkpoint")


def read(checkpoint: Checkpoint, vocabulary: int) -> Tokenizer:
    """Read a byte-level BPE tokenizer; `vocabulary` is the number of rows of the embedding."""
    spec, config = checkpoint.json("tokenizer.json"), checkpoint.json("tokenizer_config.json", required=False)
    model = spec.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise EdgeVqaError(
            f"the tokenizer of {checkpoint.folder} is not byte-level BPE", "use an Idefics3 or SmolVLM checkpoint"
        )
    tokens = [f"[PAD{i}]" for i in range(vocabulary)]
    types = [UNUSED] * vocabulary
    ids: dict[str, int] = dict(model["vocab"])
    added = {entry["content"]: entry for entry in spec.get("added_tokens", [])}
    ids |= {content: entry["id"] for content, entry in added.items()}
    if max(ids.values()) >= vocabulary:
        raise EdgeVqaError(
            f"the tokenizer has id {max(ids.values())}, the embedding only {vocabulary} rows",
            "download the checkpoint again",
        )
    for token, number in ids.items():
        tokens[number], types[number] = token, NORMAL
    for content, entry in added.items():
        # Everything in angle brackets is control: with special tokens off, a question can then never become one.
        control = entry.get("special") or (content.startswith("<") and content.endswith(">"))
        types[entry["id"]] = CONTROL if control else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {}
    for role in ("bos", "eos", "unk", "pad"):
        named = _text(config.get(f"{role}_token"))
        if named in ids:
            special[role] = ids[named]
    text_config = checkpoint.config.get("text_config", {})
    end = ids.get("<end_of_utterance>")
    if end is not None:  # the chat form of Idefics3 and SmolVLM ends a turn with it
        special["eos"] = end
        special["eot"] = end
    elif isinstance(text_config.get("eos_token_id"), int):
        special["eos"] = text_config["eos_token_id"]
    return Tokenizer(
        model="gpt2",
        pre=_pre_tokenizer(spec.get("pre_tokenizer") or {}),
        tokens=tokens,
        types=types,
        merges=merges,
        special=special,
        add_bos=False,  # the chat template writes it
        chat_template=_chat_template(checkpoint, config),
    )
