"""SmolVLM and SmolVLM2: Idefics3's parts under another name, with other defaults where config.json leaves keys out.

Source: Marafioti et al. 2025 (arXiv 2504.05299); defaults from `transformers`' configuration_smolvlm.py.
"""

from __future__ import annotations

from typing import Any

from converters.architectures import Plan, idefics3

VISION_DEFAULTS = {"hidden_size": 1152, "num_attention_heads": 16, "intermediate_size": 3072}
TEXT_DEFAULTS = {"num_attention_heads": 32}


def plan(config: dict[str, Any], preprocessor: dict[str, Any]) -> Plan:
    """As Idefics3's, after filling in what SmolVLM's config.json may leave to the defaults."""
    filled = dict(config)
    filled["vision_config"] = VISION_DEFAULTS | (config.get("vision_config") or {})
    filled["text_config"] = TEXT_DEFAULTS | (config.get("text_config") or {})
    return idefics3.plan(filled, preprocessor)
