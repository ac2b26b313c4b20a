"""Which device is this, and what suits it. Device profiles live in `devices/`."""

from __future__ import annotations

import os

SMALL_LM_BYTES = 32 * 2**20


def cores() -> int:
    """CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def default_threads(lm_bytes: int) -> int:
    """Threads for an LM of this size: for a few megabytes of weights, waking a second thread costs more than it saves."""
    return 1 if lm_bytes <= SMALL_LM_BYTES else min(cores(), 8)
