"""A pair as it is published, of fewer layers, through pull, verify, ask and bench; all of them: `rehearsal`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.converters.rehearsal import rehearse


@pytest.mark.parametrize("name", ["LFM2-VL-450M"])
def test_a_published_pair_surprises_nobody(name: str, tmp_path: Path) -> None:
    done = rehearse(tmp_path, name)
    assert abs(done.off) <= 0.2, f"{done.taken / 1e6:.0f} MB taken, {done.reckoned / 1e6:.0f} reckoned"
