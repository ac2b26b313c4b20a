"""Tokenizer metadata of a gguf, so that llama.cpp tokenises exactly like `tokenizers` does.

Byte-level BPE, SentencePiece's BPE with byte fallback as Llama has it, and its unigrams as T5 has them. Pre-tokenizer and
normaliser are recognised from what `tokenizer.json` says they do, not from a name.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from converters.files.checkpoint import Checkpoint
from edge_vqa.bundles import template
from edge_vqa.bundles.template import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary
from edge_vqa.errors import EdgeVqaError

NORMAL, UNUSED, BYTE = 1, 5, 6  # gguf.TokenType
UNUSED_SCORE = -10000.0

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Regular expressions in the tokenizer.json of Meta-Llama-3-8B and Qwen2-7B, which differ in how many digits make a word
_SPLITS = {rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe", rf"{_LETTERS}|\p{{N}}|{_REST}": "qwen2"}


@dataclass(frozen=True)
class Tokenizer(Vocabulary):
    """What a gguf says of a tokenizer. `merges` are byte-level BPE's; `scores`, by id, and `space_prefix` SentencePiece's;
    `charsmap` what its unigrams' texts are normalised by."""

    model: str
    pre: str
    merges: list[str]
    scores: list[float]
    space_prefix: bool
    charsmap: bytes = b""


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
    if kinds == ["Split", "ByteLevel"]:
        known = _SPLITS.get(steps[0].get("pattern", {}).get("Regex"))
        if known:
            return known
    raise EdgeVqaError(
        f"the pre-tokenizer {' + '.join(str(k) for k in kinds) or 'none'} is not known",
        "use a checkpoint with the pre-tokenizer of SmolLM, GPT-2, Llama 3 or Qwen2",
    )


def _text(value: Any) -> str | None:
    """A special token in tokenizer_config.json: a string, or an object with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def _chat_template(checkpoint: Checkpoint, config: dict[str, Any]) -> str:
    jinja = checkpoint.folder / "chat_template.jinja"
    if jinja.is_file():
        return template.read(jinja) or ""
    for holder in (checkpoint.json("chat_template.json", required=False), config):
        if isinstance(holder.get("chat_template"), str):
            return str(holder["chat_template"])
    raise EdgeVqaError(f"{checkpoint.folder} holds no chat template", "add chat_template.jinja to the checkpoint")


def _normal_form(spec: dict[str, Any]) -> str:
    """The Unicode normal form of a byte-level tokenizer, which llama.cpp leaves to whoever calls it."""
    kind = (spec.get("normalizer") or {}).get("type")
    if kind not in (None, "NFC", "NFKC"):
        raise EdgeVqaError(f"the normaliser {kind} is not known", "use an original checkpoint")
    return kind or ""


def _space_prefix(spec: dict[str, Any]) -> bool:
    """Whether SentencePiece puts a space before each text and behind each special token, as Llama's does and Gemma's does not;
    both write spaces as U+2581."""
    found = spec.get("normalizer") or {}
    steps = [(step.get("type"), step.get("prepend", step.get("content"))) for step in found.get("normalizers", [found])]
    before = spec.get("pre_tokenizer") or {}
    if before and (before.get("type"), before.get("pattern")) != ("Split", {"String": " "}):  # no space is left to split at
        steps = []
    prepended = steps[:1] == [("Prepend", "\u2581")]
    if steps[prepended:] != [("Replace", "\u2581")]:
        raise EdgeVqaError("this kind of SentencePiece tokenizer is not known", "use a checkpoint with Llama's tokenizer.json")
    return prepended


def _charsmap(spec: dict[str, Any]) -> bytes:
    """SentencePiece's normalisation of texts for its unigrams. llama.cpp merges white space and writes it as U+2581 in front of
    each word: anything else is refused."""
    found = spec.get("normalizer") or {}
    steps = found.get("normalizers", [found])
    spaces = ({"type": "Strip"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}})
    maps = [step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"]
    others = [step for step in steps if step and step.get("type") != "Precompiled"]
    before = spec.get("pre_tokenizer") or {}
    cuts = before.get("pretokenizers", [before])
    marks = [step for step in cuts if step.get("type") == "Metaspace" and step.get("replacement") == "\u2581"]
    always = [step.get("prepend_scheme", "always" if step.get("add_prefix_space") else "never") for step in marks]
    known = all(any(sort.items() <= step.items() for sort in spaces) for step in others) and len(maps) <= 1
    if not known or always != ["always"] or {step.get("type") for step in cuts} - {"Metaspace", "WhitespaceSplit"}:
        raise EdgeVqaError("this kind of unigram tokenizer is not known", "use a checkpoint with T5's tokenizer.json")
    return base64.b64decode(maps[0]) if maps else b""


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece scores: the earlier a merge, the higher the token it makes. llama.cpp merges the best pair first."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), number)
    return [-float(rank[token]) if token in rank else (0.0 if len(token) > 1 else -1e6) for token in tokens]


def _starts_with_bos(spec: dict[str, Any], bos: str | None) -> bool:
    """Whether the post-processor puts the first special token before a text."""
    steps = spec.get("post_processor") or {}
    steps = steps.get("processors", [steps])
    templates = [step.get("single", []) for step in steps if step.get("type") == "TemplateProcessing"]
    return any(piece.get("SpecialToken", {}).get("id") == bos for template in templates for piece in template[:1])


def _special(ids: dict[str, int], config: dict[str, Any], text_config: dict[str, Any]) -> dict[str, int]:
    """The ids of the tokens that play a role."""
    special = {}
    for role in ("bos", "eos", "unk", "pad"):
        named = _text(config.get(f"{role}_token"))
        if named in ids:
            special[role] = ids[named]
    end = ids.get("<end_of_utterance>")
    if end is not None:  # the chat form of Idefics3 and SmolVLM ends a turn with it
        special["eos"] = end
        special["eot"] = end
    elif "<end_of_turn>" in ids:  # Gemma's
        special["eot"] = ids["<end_of_turn>"]
    if "eos" not in special and isinstance(text_config.get("eos_token_id"), int):
        special["eos"] = text_config["eos_token_id"]
    return special


def read(checkpoint: Checkpoint, vocabulary: int, chat_template: str | None = None) -> Tokenizer:
    """Read a tokenizer; `vocabulary` is the number of rows of the embedding."""
    spec, config = checkpoint.json("tokenizer.json"), checkpoint.json("tokenizer_config.json", required=False)
    model = spec.get("model", {})
    unigrams = model.get("type") == "Unigram"
    if model.get("type") != "BPE" and not unigrams:
        raise EdgeVqaError(f"the tokenizer of {checkpoint.folder} is no BPE, and no unigrams", "use an original checkpoint")
    sentencepiece = bool(model.get("byte_fallback")) and not unigrams
    space_prefix = unigrams or (sentencepiece and _space_prefix(spec))
    tokens = [f"[PAD{i}]" for i in range(vocabulary)]
    types = [UNUSED] * vocabulary
    listed = model["vocab"]
    ids: dict[str, int] = {token: number for number, (token, _) in enumerate(listed)} if unigrams else dict(listed)
    added = {entry["content"]: entry for entry in spec.get("added_tokens", [])}
    ids |= {content: entry["id"] for content, entry in added.items()}
    if max(ids.values()) >= vocabulary:
        raise EdgeVqaError(
            f"the tokenizer has id {max(ids.values())}, the embedding only {vocabulary} rows",
            "download the checkpoint again",
        )
    for token, number in ids.items():
        tokens[number], types[number] = token, NORMAL
    if sentencepiece:
        for number in range(256):
            if (byte := f"<0x{number:02X}>") in ids:
                types[ids[byte]] = BYTE
    for content, entry in added.items():
        # Everything in angle brackets is control: with special tokens off, a question can then never become one.
        control = entry.get("special") or (content.startswith("<") and content.endswith(">"))
        types[entry["id"]] = CONTROL if control else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", ())]
    unknown = model.get("unk_id") if unigrams else ids.get(model.get("unk_token"))
    if (sentencepiece or unigrams) and unknown is not None:
        types[unknown] = UNKNOWN
    scores = _scores(tokens, merges) if sentencepiece else []
    if unigrams:
        scores = [float(score) for _, score in listed] + [UNUSED_SCORE] * (vocabulary - len(listed))
    own = sentencepiece or unigrams
    return Tokenizer(
        model="t5" if unigrams else "llama" if sentencepiece else "gpt2",
        pre="default" if own else _pre_tokenizer(spec.get("pre_tokenizer") or {}),
        tokens=tokens,
        types=types,
        merges=[] if own else merges,
        scores=scores,
        space_prefix=space_prefix,
        special=_special(ids, config, checkpoint.config.get("text_config") or {}),
        starts_with_bos=_starts_with_bos(spec, _text(config.get("bos_token"))),
        chat_template=chat_template or _chat_template(checkpoint, config),
        unicode="" if own else _normal_form(spec),
        charsmap=_charsmap(spec) if unigrams else b"",
    )


ROLES = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}  # -> gguf's


def metadata(made: Tokenizer) -> dict[str, Any]:
    """The gguf keys of a tokenizer."""
    parts: dict[str, Any] = (
        {"merges": made.merges} if made.merges else {"scores": made.scores, "add_space_prefix": made.space_prefix}
    )
    if made.model == "t5":
        parts["remove_extra_whitespaces"] = True
        parts |= {"precompiled_charsmap": made.charsmap} if made.charsmap else {}
    return {
        "tokenizer.ggml.model": made.model,
        "tokenizer.ggml.pre": made.pre,
        "tokenizer.ggml.tokens": made.tokens,
        "tokenizer.ggml.token_type": made.types,
        **{f"tokenizer.ggml.{key}": value for key, value in parts.items()},
        "tokenizer.ggml.add_bos_token": made.starts_with_bos,
        "tokenizer.chat_template": made.chat_template,
        **{f"tokenizer.ggml.{ROLES[role]}_token_id": number for role, number in made.special.items()},
    }
