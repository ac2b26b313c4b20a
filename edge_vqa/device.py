"""Which device is this, and what suits it. Device profiles live in `devices/`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.errors import EdgeVqaError

SMALL_LM_BYTES = 32 * 2**20
MOST_THREADS = 8  # memory bandwidth, not arithmetic, limits decoding beyond


@dataclass(frozen=True)
class Threads:
    """CPU threads of the vision tower, of prefill (many tokens a call) and of decoding (one token a call)."""

    vision: int
    prefill: int
    decode: int

    @staticmethod
    def of(value: Threads | int) -> Threads:
        """The same number for all three. Raises EdgeVqaError for less than 1."""
        threads = value if isinstance(value, Threads) else Threads(value, value, value)
        least = min(threads.vision, threads.prefill, threads.decode)
        if least < 1:
            raise EdgeVqaError(f"{least} threads cannot run a model", "give 1 or more")
        return threads


def cores(system: Path = Path("/sys")) -> int:
    """Physical CPU cores that this process may use: those of its affinity mask, hyper-threads counted once, of big.LITTLE the
    big ones only, and no more than its control group's quota allows. At least 1. `system`: where sysfs is."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
    cpus = system / "devices/system/cpu"
    capacity = {cpu: _number(cpus / f"cpu{cpu}/cpu_capacity", 0) for cpu in allowed}
    best = max(capacity.values())
    # a LITTLE core has about half of a big one's capacity; waiting for it slows every matrix product down
    big = [cpu for cpu in allowed if capacity[cpu] > 0.6 * best or not best]
    physical = {_text(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in big}
    return max(1, math.floor(min(len(physical), _quota(system))))


def _quota(system: Path) -> float:
    """Cores' worth of time that the control group grants; infinity where nothing is said."""
    quota, _, period = _text(system / "fs/cgroup/cpu.max").partition(" ")
    if not quota:  # version 1
        quota, period = (_text(system / f"fs/cgroup/cpu/cpu.cfs_{part}_us") for part in ("quota", "period"))
    try:
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else math.inf
    except ValueError:  # "max", or no such file
        return math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path, default: int) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else default


def default_threads(lm_bytes: int) -> Threads:
    """Threads for an LM of this size: for a few megabytes of weights, waking a second thread costs more than it saves."""
    return Threads.of(1 if lm_bytes <= SMALL_LM_BYTES else min(cores(), MOST_THREADS))
