"""Reads answers of batch APIs: what is no such answer is a ValueError; pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What msgspec cannot read within is a ValueError."""
    try:
        yield
    except msgspec.DecodeError as exc:
        raise ValueError(str(exc)) from exc
