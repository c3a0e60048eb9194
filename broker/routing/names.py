"""Reads a model's name: `provider/model`, `model@provider`, `model@mode<limits`, `model:floor`.

A mode or a suffix may follow the model of `provider/model` too.

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
        # A name with a path is the provider's own, mode, suffix and all.
        return Wish(rest, provider) if "/" in rest else _sorted(rest, provider, name)
    rest, at, tail = name.rpartition("@")
    if at and rest and (provider := _provider(tail, known)):
        return Wish(rest, provider)
    return _sorted(name, "", name)


def _provider(word: str, known: Collection[str]) -> str | None:
    return word if word in known else providers.canonical(word)


def _sorted(model: str, provider: str, name: str) -> Wish:
    """The model without its mode, or without `:nitro` or `:floor`; others belong to its name."""
    bare, at, tail = model.rpartition("@")
    mode = _MODE.fullmatch(tail) if at and bare else None
    if mode is not None and (metric := _WORDS.get(mode["word"])) is not None:
        return Wish(bare, provider, metric, _limits(mode["limits"], name))
    bare, colon, suffix = model.rpartition(":")
    if colon and bare and suffix in _SUFFIXES:
        return Wish(bare, provider, sort=_SUFFIXES[suffix])
    return Wish(model, provider)


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
