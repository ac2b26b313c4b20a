"""The vocabulary of a projector that reads the question: WordPiece as in BERT's uncased models, run on the device itself."""

from __future__ import annotations

from converters.files.checkpoint import Checkpoint
from edge_vqa.errors import EdgeVqaError

FOLDER = "qformer_tokenizer"  # of a checkpoint


def read(checkpoint: Checkpoint) -> list[str]:
    """Tokens by id. Raises EdgeVqaError for a tokenizer of another kind."""
    spec = checkpoint.json(f"{FOLDER}/tokenizer.json")
    model, steps = spec.get("model") or {}, spec.get("normalizer") or {}
    shaped = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    fine = shaped.items() <= steps.items() and steps.get("strip_accents") in (None, True)
    fine = fine and model.get("type") == "WordPiece" and model.get("continuing_subword_prefix") == "##"
    if not fine or (spec.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        raise EdgeVqaError(f"the tokenizer in {FOLDER} is not that of an uncased BERT", "use an original checkpoint")
    ids: dict[str, int] = dict(model["vocab"]) | {entry["content"]: entry["id"] for entry in spec.get("added_tokens", [])}
    words = sorted(ids, key=lambda word: ids[word])
    missing = [word for word in ("[CLS]", "[SEP]", "[UNK]") if word not in ids]
    if missing or [ids[word] for word in words] != list(range(len(words))):
        raise EdgeVqaError(f"the vocabulary in {FOLDER} has gaps ({', '.join(missing) or 'ids'})", "use an original checkpoint")
    return words
