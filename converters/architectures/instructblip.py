"""InstructBLIP (`InstructBlipForConditionalGeneration`): BLIP-2 whose Q-Former reads the question too (arXiv 2305.06500)."""

from __future__ import annotations

from typing import Any

from converters.architectures import Plan, blip_2


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """config.json and preprocessor_config.json -> what goes where."""
    return blip_2.plan(config, preprocessor, reads=True)
