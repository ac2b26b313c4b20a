"""Parts of `batch` and `eval`: answers, as JSON lines or as Parquet, exactly as one machine writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vqa.model import Model
from edge_vqa.visible import as_json
from edge_vqa.work import batch
from edge_vqa.work.batch import Outcome, Settings
from edge_vqa.work.questions import Question

TEXTS = ("question_id", "answer", "candidate", "reason", "confidence_method", "model", "bundle", "of", "error", "asked")
NUMBERS = ("confidence", "familiarity", "threshold", "risk_target", "maxprob", "total_s")
FLAGS = ("abstained", "calibrated")


@dataclass(frozen=True)
class Answers:
    """See `worker.Work`. suffix: .jsonl or .parquet."""

    bundle: str | None
    options: Mapping[str, Any]
    settings: Settings
    suffix: str = ".jsonl"

    def answer(self, model: Model, asked: Sequence[Question], images: Mapping[str, str], old: Path | None, to: Path) -> None:
        made = to.with_name("answers.jsonl")
        if old is not None and self.suffix == ".jsonl":
            wanted = {question.question_id for question in asked}
            with suppress(ValueError, KeyError, TypeError):  # one that was torn is of no use
                kept = [raw for raw in old.read_bytes().splitlines(keepends=True) if json.loads(raw)["question_id"] in wanted]
                made.write_bytes(b"".join(kept))
        batch.run(model, asked, made, self.settings)
        lines = [json.loads(raw) for raw in made.read_bytes().splitlines()]
        for line in lines:
            for path, image in images.items():
                if "error" in line and path in line["error"]:
                    line["error"] = line["error"].replace(path, image)
        if self.suffix == ".parquet":
            _write_parquet(lines, to)
        else:
            to.write_text("".join(as_json(line) + "\n" for line in lines), encoding="utf-8")

    def tally(self, raw: bytes) -> Outcome | None:
        if self.suffix == ".parquet":
            return _tally_parquet(raw)
        if not raw.endswith(b"\n"):
            return None
        failed = raw.count(b'"error": ')
        first = next((line for line in raw.splitlines() if b'"error": ' in line), None) if failed else None
        abstained, answered = (raw.count(b'"abstained": ' + value) for value in (b"true", b"false"))
        return Outcome(answered, abstained, failed, _failure(json.loads(first)) if first else "")


def _failure(line: Mapping[str, Any]) -> str:
    return f"{line['question_id']}: {line['error']}"


def _write_parquet(lines: Sequence[Mapping[str, Any]], to: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {TEXTS: pyarrow.string(), NUMBERS: pyarrow.float64(), FLAGS: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kind) for names, kind in kinds.items() for name in names])
    rows = [dict(line) | {"asked": as_json(line["asked"])} for line in lines]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), to)


def _tally_parquet(raw: bytes) -> Outcome | None:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(io.BytesIO(raw), columns=["question_id", "abstained", "error"]).to_pylist()
    except (pyarrow.ArrowException, OSError):
        return None
    failed = [row for row in rows if row["error"] is not None]
    abstained = sum(row["abstained"] is True for row in rows)
    return Outcome(len(rows) - abstained - len(failed), abstained, len(failed), _failure(failed[0]) if failed else "")
