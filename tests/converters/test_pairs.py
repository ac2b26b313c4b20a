"""Pairs of other architectures, kept with what `transformers` makes of them (tests/data/pairs): see `pairs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.options import Options
from edge_vqa.vision.parameters import Parameters
from tests.converters import bench
from tests.converters.pair_checkpoints import PAIRS
from tests.converters.pairs import STORED, Stored


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_answers_as_transformers_does(kind: str, tmp_path: Path) -> None:
    reference = Stored(kind, tmp_path)
    row = bench.compare(kind, reference.bundle, reference, PAIRS[kind].sizes or bench.SHAPES)
    assert row.fine, row


@pytest.mark.parametrize(("kind", "most", "unmended"), [("gemma4", 3e-3, 6e-3), ("paddleocr_vl", 5e-4, 1.5e-3)])
def test_what_llama_cpp_computes_otherwise_is_mended_in_a_pair_that_is_kept(
    kind: str, most: float, unmended: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []
    for name in ("mended", "as it is"):
        reference = Stored(kind, tmp_path / name, Options(quant="keep"))
        errors.append(bench.compare(kind, reference.bundle, reference, bench.SHAPES).error)
        monkeypatch.setattr(Parameters, "concerns", staticmethod(lambda header: False))
    print(f"\n{kind}, kept: logit error / range {errors[0]:.1e}, as llama.cpp runs it {errors[1]:.1e}")
    assert errors[0] < most < unmended < errors[1]


def test_every_pair_is_kept() -> None:
    assert {path.stem for path in STORED.glob("*.zip")} == set(PAIRS)
