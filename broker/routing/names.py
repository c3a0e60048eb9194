"""Reads a model's name: `provider/model`, `model@provider`, `model@mode<limits`, `model:floor`.

Source: Unify's endpoint names and OpenRouter's suffixes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from broker import providers
from broker.errors import InferenceError

# What can be measured of an offer -> its names. Costs are in USD per million tokens, times in ms,
# speed in tokens per second.
METRICS: dict[str, tuple[str, ...]] = {
    "input_cost": ("lowest-input-cost", "input-cost", "ic"),
    "output_cost": ("lowest-output-cost", "output-cost", "oc"),
    "itl": ("lowest-itl", "inter-token-latency", "itl"),
    "ttft": ("lowest-ttft", "time-to-first-token", "ttft"),
    "speed": ("highest-tks-per-sec", "tks-per-sec", "ots"),
}
_WORDS = {word: metric for metric, words in METRICS.items() for word in words}
_MODE = re.compile(r"(?P<word>[a-z-]+)(?P<limits>([<>].*)?)")
_LIMIT = re.compile(r"(?P<value>\d+(\.\d+)?)(?P<word>[a-z-]+)")
_SUFFIXES = {"nitro": "throughput", "floor": "price"}


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a metric: at most `value`, for speed at least."""

    metric: str
    value: float

    def __str__(self) -> str:
        sign = ">=" if self.metric == "speed" else "<="
        return f"{METRICS[self.metric][1]} {sign} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a name asks for: a model, and where from."""

    model: str
    provider: str = ""
    # A metric to sort by, best first.
    metric: str = ""
    limits: tuple[Limit, ...] = ()
    # "throughput" or "price", by a suffix.
    sort: str = ""


def read(name: str, known: Collection[str]) -> Wish:
    """The wish behind a name; `known` are providers beside those of the registry.

    Raises `InferenceError` invalid_request for a mode that cannot be read.
    """
    head, slash, rest = name.partition("/")
    if slash and rest and (provider := _provider(head, known)):
        # A name with a path is the provider's own, suffix and all.
        model, sort = (rest, "") if "/" in rest else _suffixed(rest)
        return Wish(model, provider, sort=sort)
    rest, at, tail = name.rpartition("@")
    if at and rest:
        if provider := _provider(tail, known):
            return Wish(rest, provider)
        if mode := _MODE.fullmatch(tail):
            metric = _WORDS.get(mode["word"])
            if metric is not None:
                return Wish(rest, metric=metric, limits=_limits(mode["limits"], name))
    model, sort = _suffixed(name)
    return Wish(model, sort=sort)


def _provider(word: str, known: Collection[str]) -> str | None:
    return word if word in known else providers.canonical(word)


def _suffixed(model: str) -> tuple[str, str]:
    """The model without `:nitro` or `:floor`; other suffixes belong to its name."""
    bare, colon, suffix = model.rpartition(":")
    if colon and bare and suffix in _SUFFIXES:
        return bare, _SUFFIXES[suffix]
    return model, ""


def _limits(text: str, name: str) -> tuple[Limit, ...]:
    limits = []
    for part in re.split(r"[<>]", text)[1:]:
        found = _LIMIT.fullmatch(part)
        metric = _WORDS.get(found["word"]) if found else None
        if found is None or metric is None:
            words = ", ".join(names[-1] for names in METRICS.values())
            raise InferenceError(
                "invalid_request",
                f"{part!r} in the model {name!r} is no limit: write a number and one of {words}, "
                "such as <0.5ic",
                param="model",
            )
        limits.append(Limit(metric, float(found["value"])))
    return tuple(limits)
