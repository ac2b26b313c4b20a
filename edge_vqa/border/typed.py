"""Decoded JSON -> dataclasses: nothing is believed before its keys and types are checked."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any


def typed(value: Any, kind: Any, where: str) -> Any:
    """Build `kind` (a dataclass, dict, tuple, union or plain type) from decoded JSON; refuse what does not fit, by name."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else typed(value, next(a for a in args if a is not type(None)), where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object")
        fields = {f.name: f for f in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in fields:
                raise ValueError(f"unknown key {where}.{key}".replace(" .", " "))
        made = {}
        for name, f in fields.items():
            if name in value:
                made[name] = typed(value[name], hints[name], f"{where}.{name}".lstrip("."))
            elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ValueError(f"missing key {where}.{name}".replace(" .", " "))
        return kind(**made)  # type: ignore[operator]
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object")
        return {key: typed(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        return tuple(typed(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where} must be a {kind.__name__}")
    return value
