"""Reads a count as a server may write it; pure."""

from __future__ import annotations

from typing import Any

# Larger ones are no counts, and no field has room for them.
_LARGEST = 2**53


def count(value: Any) -> int | None:
    """The number from 0 on that an integer, a float or digits in quotes stand for; None for else.

    JSON has one kind of number, which some languages write as floats, and Google's way of writing
    protobuf in JSON puts 64 bits in quotes.
    """
    if type(value) is int:  # nearly always
        return value if 0 <= value <= _LARGEST else None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) < len(str(_LARGEST)) else -1
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        return None
    return int(value)
