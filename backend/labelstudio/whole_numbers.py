"""Whole numbers as programs write them to JSON: 200, 200.0 or "200"."""

import re

TEXT = re.compile(r"[+-]?[0-9]{1,18}(?:\.0*)?")


def whole(value: object) -> int | None:
    """The whole number that a JSON value means; None for null, true, 200.5, NaN, "x"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None  # False for NaN and the infinities
    if isinstance(value, str) and TEXT.fullmatch(text := value.strip()):
        return int(text.partition(".")[0])
    return None
