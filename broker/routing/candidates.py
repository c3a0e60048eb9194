"""Which offers a name stands for: one provider's model, or every host that serves it; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from broker import providers
from broker.catalog.offers import NANO, Offer
from broker.routing import fleet as fleets
from broker.routing import residency
from broker.routing.fleet import Fleet, Target
from broker.routing.names import Wish
from broker.routing.residency import Claim
from broker.routing.world import UNKNOWN, Live, World

NO_ALIAS = -1


class Candidate(msgspec.Struct):
    """One target that could answer, what is known of it, and why it was left out if it was.

    `weight` is that of the deployment it belongs to; `deployment` tells those of one alias apart,
    NO_ALIAS where a model was asked for by its own name.
    """

    target: Target
    wish: Wish
    offer: Offer | None
    live: Live = UNKNOWN
    weight: float = 1.0
    deployment: int = NO_ALIAS
    # Which of the names that were asked for it serves: 0 is the first.
    rank: int = 0
    # Where it processes requests, and who says so; None = nobody does.
    claim: Claim | None = None
    # Whether its provider has no worker now.
    away: bool = False
    # For people.
    name: str = ""
    excluded: str = ""

    def now(self, live: Live) -> Candidate:
        """The same, in the present state."""
        return Candidate(
            self.target,
            self.wish,
            self.offer,
            live,
            self.weight,
            self.deployment,
            self.rank,
            self.claim,
            name=self.name,
        )

    def without(self, why: str) -> Candidate:
        """The same, left out."""
        left = self.now(self.live)
        left.excluded = why
        return left

    @property
    def provider(self) -> str:
        """Who."""
        return self.target.provider

    def usd(self, name: str) -> float | None:
        """USD per million of a class, for one of images and requests; None when nobody knows."""
        price = None if self.offer is None else self.offer.rates.prices.get(name)
        return None if price is None else price / NANO


def candidates(wish: Wish, world: World, *, widen: bool) -> list[Candidate]:
    """Every target of a wish, in no order.

    With `widen` the hosts of a model count too where one provider was named. Providers count whose
    workers are away: what a request asks for is held against all that might serve it. Raises
    `InferenceError` model_not_found.
    """
    fleet = world.fleet
    if wish.provider and not (widen and world.catalog.hosts(wish.model)):
        return [_named(wish, world)]
    # What a worker lists goes before what the catalogue says of its provider.
    found = dict(fleet.listed(wish.model))
    if wish.provider and fleet.knows(wish.provider):
        found[wish.provider] = wish.model
    for offer in _best(world.catalog.hosts(wish.model), fleet):
        if fleet.knows(offer.provider):
            found.setdefault(offer.provider, offer.model)
    for provider in fleet.known - fleet.live.keys():
        # What it lists when it is there may be known from its offers alone.
        if world.catalog.offer(provider, wish.model):
            found.setdefault(provider, wish.model)
    if not found:
        if wish.provider:
            return [_named(wish, world)]
        raise fleets.not_found(wish.model, fleet, "")
    return [_candidate(provider, model, wish, world) for provider, model in found.items()]


def _named(wish: Wish, world: World) -> Candidate:
    """The provider that the name says gets the model's name untouched, known or not."""
    if world.fleet.knows(wish.provider):
        return _candidate(wish.provider, wish.model, wish, world)
    why = f"provider {wish.provider!r} is not on here"
    raise fleets.not_found(f"{wish.provider}/{wish.model}", world.fleet, why)


def _candidate(provider: str, model: str, wish: Wish, world: World) -> Candidate:
    offer = world.catalog.offer(provider, model)
    target = world.fleet.target(provider, model)
    if offer is not None:
        thinks = "reasoning" in offer.abilities
        prefill = "prefill" in offer.abilities and providers.continues(provider, model)
        target = replace(target, window=offer.max_input, thinks=thinks, prefill=prefill)
    written = world.rules.compliance.get(provider)
    held = residency.claim(model, written, world.fleet.claims.get(provider, ()))
    away = provider not in world.fleet.live
    return Candidate(target, wish, offer, claim=held, away=away, name=f"{provider}/{model}")


def _best(offers: Iterable[Offer], fleet: Fleet) -> list[Offer]:
    """Of each provider's ids for one model: one that a worker lists, else the plainest."""
    return sorted(
        offers,
        key=lambda offer: (
            not fleet.knows(offer.provider) or not fleet.target(offer.provider, offer.model).listed,
            bool(offer.ends),
            len(offer.model),
            offer.model,
        ),
    )
