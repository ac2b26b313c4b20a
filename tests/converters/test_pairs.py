"""Pairs of other architectures, kept with what `transformers` makes of them (tests/data/pairs): see `pairs`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.converters import bench
from tests.converters.pair_checkpoints import PAIRS
from tests.converters.pairs import STORED, Stored


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_answers_as_transformers_does(kind: str, tmp_path: Path) -> None:
    reference = Stored(kind, tmp_path)
    row = bench.compare(kind, reference.bundle, reference, PAIRS[kind].sizes or bench.SHAPES)
    assert replace(row, most=PAIRS[kind].most).fine, row


def test_every_pair_is_kept() -> None:
    assert {path.stem for path in STORED.glob("*.zip")} == set(PAIRS)
