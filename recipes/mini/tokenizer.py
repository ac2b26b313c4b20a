"""The tokenizer: byte-level BPE with SmolLM's pre-tokenizer (digits one by one) and SmolVLM's special tokens."""

from __future__ import annotations

from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.mini import data, nouns, scenes
from recipes.mini import questions as q
from recipes.mini.wordings import PICTURES, PLACES, WORDINGS

VOCABULARY = 1536
FOLDER = data.BUILD / "tokenizer"
END = "<end_of_utterance>"
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    END,
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GENERAL = (
    "the of and a to in is you that it he for was on are as with his they at be this from have or by one had not but what"
    " all were when we there can an your which their said if do will each about how up out them then she many some so"
    " these would other into has more her two like him see time could no make than first been its who now people my made"
    " over did down only way find use may water long little very after words called just where most know small big left"
    " right above below colour color picture image photo number count word read sign name which kind thing things any"
)


def corpus(seed: int = 0, rounds: int = 60) -> list[str]:
    """Every training wording with many nouns, and every answer; what signs say is spelled, so it is no part of this."""
    rng = Random(seed)
    lines = [GENERAL] * 20 + ["\n\n"] * 2000  # a blank line at the end of a piece is one token
    names = (*nouns.NOUNS, *scenes.SHAPES, *(f"{colour} shape" for colour in scenes.COLOURS))
    for _ in range(rounds):
        for parts in WORDINGS.values():
            for wording in parts["train"]:
                one, other = rng.choice(names), rng.choice(names)
                text = wording.format(
                    **{"place": rng.choice(PLACES), "picture": rng.choice(PICTURES), "a": q.a(one), "the": f"the {one}"},
                    **{"other": f"the {other}", "thing": one, "things": q.plural(one), "others": q.plural(other)},
                )
                lines.append(f"User:{text}\nAssistant: {rng.choice(names)}")
        lines += [f" {answer}" for answer in (*names, *nouns.MOODS, *nouns.KINDS, *data.CLASSES, q.CANNOT_TELL, "nothing")]
        lines += [f" {q.no_such(name)}" for name in names]
        lines += [" yes", " no", " on the left", " on the right", " at the top", " at the bottom", " in the middle"] * 20
    return lines


def train() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if tokenizer.token_to_id("ĊĊ") is None:
        raise SystemExit("the vocabulary must hold a blank line as one token: llama.cpp's Idefics3 prompt needs it")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token=END,
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL if "image" in t or "img" in t or "row" in t],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def ready() -> PreTrainedTokenizerFast:
    """The recipe's tokenizer. Trained once, then kept: a model in training must not lose it when wordings are added."""
    if not FOLDER.is_dir():
        train().save_pretrained(FOLDER)
    return PreTrainedTokenizerFast.from_pretrained(FOLDER)


if __name__ == "__main__":
    made = ready()
    print(len(made), made.encode("what is in the picture?"), made.tokenize(" is there not a blue shape in the image?\n\n"))
