"""llama.cpp tokenises as `tokenizers` does: 1,000 strings for each kind of tokenizer."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import BACKENDS
from edge_vqa.llm.engine import Engine
from edge_vqa.model import Model
from tests.conftest import CHECKPOINT, Asked
from tests.converters.random_checkpoints import make
from tests.converters.tokenizers import GEMMA_SPECIAL, QWEN_SPECIAL

SPECIAL = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<row_2_col_3>",
)
PIECES = (
    *"abcXYZ 0123456789 .,!?'\"-()/\\<>|_{}",
    *("\n", "\n\n", "\t", "  ", "   ", " the", "what", " picture", "I'll", "'s", "don't", "1,234.5", "£3.20", "12:45"),
    *("é", "ß", "Ж", "中文", "日本", "ខ្មែរ", "العربية", "🚀", "👩‍🚀", "✅", "🇩🇪", "\u200d", "\u00a0", "\ufeff", "ﬁ"),
)


def strings(asked: list[Asked], special: tuple[str, ...]) -> list[str]:
    rng = Random(7)
    made = [question for _, _, question, _ in asked[:200]]
    made += ["".join(rng.choices(PIECES, k=rng.randint(1, 40))) for _ in range(500)]
    made += ["".join(rng.choices((*PIECES, *special), k=rng.randint(1, 20))) for _ in range(200)]
    made += ["".join(chr(rng.choice((rng.randint(32, 126), rng.randint(160, 0x2FFF)))) for _ in range(20)) for _ in range(100)]
    return made


@pytest.mark.parametrize("kind", ["mini", "qwen2_vl", "llava", "gemma3", "blip_2"])
def test_a_thousand_strings_with_special_tokens(kind: str, model: Model, easy_questions: list[Asked], tmp_path: Path) -> None:
    """mini: SmolLM's kind of byte-level BPE; qwen2_vl: Qwen2's; llava, gemma3: SentencePiece with byte fallback, with and
    without a space before each text; blip_2: its unigrams."""
    folder, engine = CHECKPOINT, model._engine
    if kind != "mini":
        folder = make(tmp_path / "checkpoint", kind)
        convert(folder, tmp_path / "bundle", Options(quant="q8_0"))
        bundle = store.read(tmp_path / "bundle")
        tower, pixels = bundle.files[BACKENDS[bundle.backend]], bundle.manifest.runtime.preprocessing
        engine = Engine(bundle.files["lm"], tower, pixels, backend=bundle.backend)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {
        **{"mini": SPECIAL, "qwen2_vl": QWEN_SPECIAL},
        **{"llava": ("<s>", "</s>", "<image>"), "gemma3": ("<bos>", *GEMMA_SPECIAL), "blip_2": ("</s>", "<image>")},
    }[kind]
    texts = strings(easy_questions, special)
    if kind == "qwen2_vl":  # the runtime puts text into the tokenizer's normal form; see Prompt.unicode
        assert bundle.manifest.prompt.unicode == "NFC"
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    assert len(texts) == 1000
    wrong = [
        text for text in texts if engine.lm.tokenize(text, special=True) != reference.encode(text, add_special_tokens=False).ids
    ]
    assert not wrong, f"{len(wrong)} of 1000 differ, first: {wrong[0]!r}"
