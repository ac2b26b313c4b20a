"""Text from elsewhere, fit to be shown: what a bundle, a hub, a file name or a model says may hold control characters, which
recolour a terminal, set its title, or turn the direction of reading around.
"""

from __future__ import annotations

import json
from typing import Any

# C0, DEL and C1 controls; what changes the direction of text (Unicode standard annex 9, section 2) or ends a line; halves of
# surrogate pairs, by which Python stands for bytes of file names that are no UTF-8, and which cannot be printed
_BEYOND_ASCII = (
    *range(0x7F, 0xA0),
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in (*range(32), *_BEYOND_ASCII)}
_IN_JSON = {code: f"\\u{code:04x}" for code in _BEYOND_ASCII}
_SHOWN_IN_LINES = {code: text for code, text in _SHOWN.items() if code not in (9, 10)}


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control characters written out, as `\\x1b`; with `lines`, tabs and ends of lines stay."""
    return text.translate(_SHOWN_IN_LINES if lines else _SHOWN)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that is readable, holds no control character, and decodes to `value`."""
    return json.dumps(value, ensure_ascii=False, indent=indent).translate(_IN_JSON)
