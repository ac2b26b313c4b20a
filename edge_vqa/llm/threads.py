"""How many CPU threads each step gets."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vqa.errors import EdgeVqaError


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
