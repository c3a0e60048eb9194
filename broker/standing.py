"""How a place stands: what it allows, what is under way there and what was refused; pure.

The leader of the fleet's capacity knows it from the workers' reports (`broker.capacity`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from broker.capacity import ANY, Allowance, Place, Share

# Refusals are counted over so many seconds, too.
LATELY_S = 60.0


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one place, or of all keys of a model together: then `key` is empty.

    Calls at a time, calls and tokens per second, None = no limit is known, and why. It is left
    alone for `rest_s` from now on. Calls under way, jobs that wait for an allowance, and calls that
    were answered 429 (over `LATELY_S`, and since the leader knows the place) are None where nobody
    leads. `shares` is what each worker may use.
    """

    provider: str
    key: str
    model: str
    slots: float | None = None
    rate: float | None = None
    tokens: float | None = None
    why: str = ""
    rest_s: float = 0.0
    running: int | None = None
    waiting: int | None = None
    limited_lately: int | None = None
    limited: int | None = None
    shares: Mapping[str, Share] = {}

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.provider, self.key, self.model

    @property
    def calls(self) -> int | None:
        """Whole calls at a time: `slots` is an estimate while it is being found out."""
        return None if self.slots is None else max(1, int(self.slots))


def allowed(told: Allowance) -> Standing:
    """What is known of a place where nobody leads: what was allowed last."""
    return Standing(
        *told.place, told.slots, told.rate, told.tokens, told.why, told.rest_s, shares=told.shares
    )


def said(one: Standing) -> str:
    """It in words."""
    parts = [
        f"{value:g} {what}"
        for value, what in (
            (one.calls, "calls at a time"),
            (one.rate, "calls/s"),
            (one.tokens, "tokens/s"),
        )
        if value is not None
    ]
    words = [f"{', '.join(parts)} ({one.why})" if parts else "no limit known"]
    if one.running is not None:
        words.append(f"{one.running:,} running")
    if one.waiting:
        words.append(f"{one.waiting:,} held back")
    if one.limited:
        words.append(f"{one.limited:,} 429s ({one.limited_lately or 0:,} in the last minute)")
    if one.rest_s:
        words.append(f"left alone for {one.rest_s:.3g} s")
    return ", ".join(words)


def together(known: Iterable[Standing], places: Iterable[tuple[str, str]]) -> list[Standing]:
    """Of each (provider, model) of which anything is known: all its keys as one."""
    resting: dict[tuple[str, str], float] = {}
    by_model: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for one in known:
        if one.model == ANY:
            resting[one.provider, one.key] = one.rest_s
        else:
            by_model[one.provider, one.model].append(one)
    return [
        _together(by_model[place], resting) for place in dict.fromkeys(places) if place in by_model
    ]


def _together(keys: list[Standing], resting: Mapping[tuple[str, str], float]) -> Standing:
    return Standing(
        keys[0].provider,
        "",
        keys[0].model,
        _sum(one.slots for one in keys),
        _sum(one.rate for one in keys),
        _sum(one.tokens for one in keys),
        ", ".join(dict.fromkeys(why for one in keys for why in one.why.split(", ") if why)),
        # As long as one key may be used the model is.
        min(max(one.rest_s, resting.get((one.provider, one.key), 0.0)) for one in keys),
        _sum(one.running for one in keys),
        _sum(one.waiting for one in keys),
        _sum(one.limited_lately for one in keys),
        _sum(one.limited for one in keys),
    )


_Number = TypeVar("_Number", int, float)


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    """None where one of them is."""
    total: _Number = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
