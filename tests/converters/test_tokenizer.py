"""llama.cpp tokenises as `tokenizers` does: 1,000 strings."""

from __future__ import annotations

from random import Random

from transformers import AutoTokenizer

from edge_vqa.model import Model
from tests.conftest import CHECKPOINT, Asked

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


def strings(asked: list[Asked]) -> list[str]:
    rng = Random(7)
    made = [question for _, _, question, _ in asked[:200]]
    made += ["".join(rng.choices(PIECES, k=rng.randint(1, 40))) for _ in range(500)]
    made += ["".join(rng.choices((*PIECES, *SPECIAL), k=rng.randint(1, 20))) for _ in range(200)]
    made += ["".join(chr(rng.choice((rng.randint(32, 126), rng.randint(160, 0x2FFF)))) for _ in range(20)) for _ in range(100)]
    return made


def test_a_thousand_strings_with_special_tokens(model: Model, easy_questions: list[Asked]) -> None:
    reference = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = strings(easy_questions)
    assert len(texts) == 1000
    wrong = [
        text for text in texts if model._engine.tokenize(text, special=True) != reference.encode(text, add_special_tokens=False)
    ]
    assert not wrong, f"{len(wrong)} of 1000 differ, first: {wrong[0]!r}"
