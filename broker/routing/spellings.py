"""Finds what the operator wrote for a model, however a request spells it; pure.

`gpt-4o`, `openai/gpt-4o`, `gpt-4o@openai`, `gpt-4o:floor` and `gpt-4o@ttft` are one model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from broker.routing import names
from broker.routing.names import Wish
from broker.routing.world import Alias, World

# What is asked for of one deployment: a wish, and its weight.
Ways = list[tuple[Wish, float]]


def alias(asked: str, wish: Wish, world: World) -> tuple[Ways, Alias] | None:
    """The deployments of an alias, with the mode or suffix of the name that was asked for.

    Of `alias@provider` those that this provider serves. None where it is no alias, or nothing of it
    is that provider's.
    """
    aliases = world.rules.aliases
    found = aliases.get(asked)
    if found is not None:
        wish = Wish(asked)
    elif (found := aliases.get(wish.model)) is None or asked.startswith(f"{wish.provider}/"):
        return None
    ways: Ways = []
    for deployment in found.deployments:
        written = _at(names.read(deployment.model, world.fleet.known), wish.provider, world)
        if written is not None:
            ways.append((_asked(written, wish), deployment.weight))
    return (ways, found) if ways else None


def written_for(
    asked: str, wish: Wish, written: Mapping[str, tuple[str, ...]], known: Collection[str]
) -> tuple[str, ...]:
    """What is tried after a model: as it is `written` for this very name, else for its model.

    What is written for its provider goes before what is written for any, and where a request names
    no provider the first that is written for the model counts.
    """
    if (exact := written.get(asked)) is not None:
        return exact
    found = sorted(_matching(wish, written, known), key=lambda one: one[0])
    return found[0][1] if found else ()


def _matching(
    wish: Wish, written: Mapping[str, tuple[str, ...]], known: Collection[str]
) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """What is written for a model, and whether it is for another provider than the wish names."""
    for name, after in written.items():
        own = names.read(name, known)
        if own.model == wish.model and (
            own.provider == wish.provider or not (own.provider and wish.provider)
        ):
            yield own.provider != wish.provider, after


def _at(written: Wish, provider: str, world: World) -> Wish | None:
    """A deployment at one provider, if that is known to serve it; as it is where none is named."""
    if not provider or written.provider == provider:
        return written
    if written.provider:
        return None
    hosts = (offer for offer in world.catalog.hosts(written.model) if offer.provider == provider)
    offer = next(hosts, None)
    return None if offer is None else replace(written, model=offer.model, provider=provider)


def _asked(written: Wish, wish: Wish) -> Wish:
    """A deployment as it is written, with what the request says beside its name."""
    return replace(
        written,
        metric=wish.metric or written.metric,
        limits=wish.limits or written.limits,
        sort=wish.sort or written.sort,
    )
