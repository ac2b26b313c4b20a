"""Every architecture passes the bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.converters import bench
from tests.converters.random_checkpoints import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_does_what_it_must(kind: str, tmp_path: Path) -> None:
    row = bench.measure(kind, tmp_path)
    print(f"\n{row}")
    assert row.fine, row
