"""A recipe as the TOML file that trains it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(recipe: Mapping[str, Any]) -> str:
    """Plain keys first, then each table; keys without a value are left to their default."""
    plain = {key: value for key, value in recipe.items() if not isinstance(value, dict)}
    parts = ["".join(map(_line, plain.items()))]
    for name, table in recipe.items():
        if isinstance(table, dict):
            parts.append(f"[{name}]\n" + "".join(map(_line, table.items())))
    return "\n".join(part for part in parts if part)


def _line(item: tuple[str, Any]) -> str:
    key, value = item
    # Numbers, strings, lists and truth values are written the same in JSON.
    return "" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
