"""Small tokenizers of real kinds, trained on made-up words: Qwen2's byte-level BPE, Llama's and Gemma's SentencePiece BPE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# What the published templates write for one user turn with a picture, a system prompt included where they add one
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL_SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>")
INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LFM2_SPECIAL = ("<|startoftext|>", "<|image_start|>", "<|image_end|>", "<image>")
LFM2_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_SPECIAL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _texts() -> list[str]:
    rng, letters = Random(1), "etaoinshrdlucmfwygpbvk"
    words = ["".join(rng.choices(letters, range(22, 0, -1), k=rng.randint(1, 8))) for _ in range(400)]
    words += ["what", "is", "this", "the", "picture", "colour", "USER", "ASSISTANT", "You", "helpful", "don't", "12:45"]
    words += ["é", "中文"]
    return [" ".join(rng.choices(words, k=12)).capitalize() + rng.choice("?.!\n") for _ in range(2000)]


def _write(tokenizer: Tokenizer, folder: Path, template: str, **config: str | None) -> int:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    return int(tokenizer.get_vocab_size())


def qwen2(folder: Path, template: str = QWEN_TEMPLATE, more: Sequence[str] = (), bos: str | None = None) -> int:
    """Write Qwen2's kind of tokenizer, with more special tokens; returns how many tokens it has."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(_texts(), trainer)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*QWEN_SPECIAL, *more)])
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    return _write(made, folder, template, bos_token=bos, **config)


def llama(folder: Path) -> int:
    """Write Llama's kind of tokenizer, as LLaVA-1.5 has it; returns how many tokens it has."""
    made = _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), "<unk>", "<s>", "</s>"
    )
    made.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    return _write(made, folder, LLAVA_TEMPLATE, **config)


def gemma(folder: Path, template: str = GEMMA_TEMPLATE, special: Sequence[str] = GEMMA_SPECIAL) -> int:
    """Write Gemma 3's kind of tokenizer; returns how many tokens it has."""
    made = _sentencepiece(normalizers.Replace(" ", "\u2581"), *("<pad>", "<eos>", "<bos>", "<unk>"))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("\n", "\n\n")])
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return _write(made, folder, template, tokenizer_class="PreTrainedTokenizerFast", **config)


def _sentencepiece(normalizer: Any, *special: str) -> Tokenizer:
    """BPE with byte fallback; the one special token that begins a text is `<s>` or `<bos>`."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizer
    decoding = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(decoding)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    # trained word by word, as SentencePiece does, so that no piece spans two
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_], show_progress=False)
    made.train_from_iterator(_texts(), trainer)
    made.pre_tokenizer = None  # type: ignore[assignment]
    first = next(token for token in special if token in ("<s>", "<bos>"))
    begin = [(first, made.token_to_id(first))]
    made.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=begin)
    made_json = json.loads(made.to_str())
    # byte tokens are part of the vocabulary and not special: text cannot spell them
    made_json["added_tokens"] = [entry for entry in made_json["added_tokens"] if entry["content"] not in bytes_]
    return Tokenizer.from_str(json.dumps(made_json))


def t5(folder: Path) -> int:
    """Write T5's kind of tokenizer, SentencePiece's unigrams with its own normalisation, as BLIP-2 has it; how many tokens."""
    import io

    from sentencepiece import SentencePieceTrainer
    from sentencepiece import sentencepiece_model_pb2 as proto

    stream, trained = io.BytesIO(), proto.ModelProto()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_texts()),
        model_writer=stream,
        vocab_size=500,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2, "hard_vocab_limit": False},
    )
    trained.ParseFromString(stream.getvalue())
    vocabulary: list[tuple[str, float]] = [(piece.piece, piece.score) for piece in trained.pieces]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.Precompiled(trained.normalizer_spec.precompiled_charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    made.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = ("<pad>", "</s>", "<unk>", *(f"<extra_id_{number}>" for number in range(5)), "<image>")
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(made.get_vocab_size())


def bert(folder: Path) -> int:
    """Write the tokenizer of an uncased BERT, as InstructBLIP's Q-Former has it; how many tokens."""
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    listed = [*special, *"0123456789!?.,:;'\"()-/", *letters, *(f"##{letter}" for letter in letters), "中", "文"]
    listed += ["question", "short", "answer", "what", "is", "it", "red", "the", "##ing", "##ed", "pict", "##ure"]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(listed)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(special)
    first, last = ("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[first, last])
    made.add_special_tokens([AddedToken("[DEC]", special=True, normalized=False)])
    (folder / "qformer_tokenizer").mkdir(exist_ok=True)
    made.save(str(folder / "qformer_tokenizer" / "tokenizer.json"))
    return int(made.get_vocab_size())
