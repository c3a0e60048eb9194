"""What a decision is made from: the fleet, the catalogue, the rules, the present state; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from broker.catalog.catalog import Catalog
from broker.routing.fleet import Fleet
from broker.routing.preferences import NONE, Preferences
from broker.routing.spread import NOTHING, Spread


class Live(msgspec.Struct, frozen=True, gc=False):
    """How one model does at one provider, over the whole fleet; 0 = nobody has seen it yet."""

    # Smoothed: milliseconds to the first token and between tokens, tokens per second.
    first_ms: float = 0.0
    token_ms: float = 0.0
    per_second: float = 0.0
    # Calls that run or wait, and how many may run at once.
    busy: int = 0
    slots: int = 0
    # Whether its breaker is open: it is tried after all others.
    resting: bool = False


UNKNOWN = Live()


def _unknown(_provider: str, _model: str) -> Live:
    return UNKNOWN


def _uncounted(_provider: str, _model: str) -> Spread:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to serve an alias; what weighs twice as much is tried first twice as often."""

    model: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Alias:
    """A name of the operator's own: equals to choose from, and what is tried after them."""

    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator has written.

    `compliance`: provider -> regions it is certified for. `private`: providers that keep nothing
    and train on nothing (zdr). `fallbacks`: model -> what is tried after it, `context_fallbacks`
    where the prompt is too long for it. `hedge_after_ms`: model as it is asked for -> how long it
    may say nothing until it is asked twice.
    """

    aliases: Mapping[str, Alias] = field(default_factory=dict)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context_fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compliance: Mapping[str, frozenset[str]] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    quantizations: Mapping[str, str] = field(default_factory=dict)
    hedge_after_ms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """See the module. `state` tells how a model does at a provider, `spread` how it did lately."""

    fleet: Fleet = field(default_factory=Fleet)
    catalog: Catalog = field(default_factory=Catalog)
    rules: Rules = field(default_factory=Rules)
    state: Callable[[str, str], Live] = _unknown
    spread: Callable[[str, str], Spread] = _uncounted
    # Changes with what workers say of how they do; 0 = nobody counts it. And whether any breaker is
    # open.
    news: int = 0
    troubled: bool = True


class Ask(msgspec.Struct, frozen=True):
    """What of a request decides where it goes.

    `needs` are abilities as the catalogue names them; `input_tokens` is an estimate, 0 = none was
    made; `region` is a cloud's, "" = that of the provider's settings.
    """

    model: str
    models: tuple[str, ...] = ()
    preferences: Preferences = NONE
    operation: str = "generate"
    needs: frozenset[str] = frozenset()
    input_tokens: int = 0
    region: str = ""
