"""How long calls may take, by provider and by model, where the settings say so; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

_Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of one call, None = as it is elsewhere.

    `connect_s` to connect, `first_token_s` to the first token of a stream, `stall_s` between two,
    `total_s` from the connection to the end, whether it is streamed or not.
    """

    connect_s: _Seconds | None = None
    first_token_s: _Seconds | None = None
    stall_s: _Seconds | None = None
    total_s: _Seconds | None = None


NONE = Timeouts()

# `provider` or `provider/model` -> what is said of it.
ByName = Mapping[str, Timeouts]


def of(by_name: ByName, provider: str, model: str) -> Timeouts:
    """What is said of a model, and where that is nothing of its provider."""
    own = by_name.get(f"{provider}/{model}", NONE)
    wide = by_name.get(provider, NONE)
    return Timeouts(
        own.connect_s or wide.connect_s,
        own.first_token_s or wide.first_token_s,
        own.stall_s or wide.stall_s,
        own.total_s or wide.total_s,
    )
