"""The catalogue: every offer, found by provider and id or by the model's common name; pure.

What the operator writes goes before the vendored data, field by field.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from broker.catalog.names import name_of, slug_of
from broker.catalog.offers import Offer, decode

_FILE = Path(__file__).parent / "data" / "offers.json"


# Words of names that tell what a model is for, the first that is in it counts.
_WORDS = tuple(
    (re.compile(words), (operation,))
    for words, operation in (
        (r"rerank|ranker", "rerank"),
        (r"embed|\be5-|\bbge-|\bgte-", "embed"),
        (r"moderation", "moderate"),
        (r"whisper|transcri", "transcribe"),
        (r"\btts\b|-tts-|speech", "speak"),
        (r"dall-e|imagen|\bflux|stable-(diffusion|image)|-image\b", "image"),
    )
)


class Catalog:
    """See the module. `date` (YYYY-MM-DD) is when the vendored prices were taken."""

    def __init__(self, offers: Iterable[Offer] = (), date: str = "") -> None:
        self.date = date
        self._offers: dict[tuple[str, str], Offer] = {}
        self._by_slug: dict[tuple[str, str], Offer] = {}
        self._hosts: dict[str, list[Offer]] = defaultdict(list)
        # What stands before the last part of names and ids: makers, and folders of providers.
        self._paths: set[str] = set()
        for offer in offers:
            self.put(offer)

    def put(self, offer: Offer) -> None:
        """Add an offer, in place of one of the same provider and id."""
        key = (offer.provider, offer.model)
        old = self._offers.pop(key, None)
        if old is not None:
            self._hosts[old.name].remove(old)
        self._offers[key] = offer
        self._hosts[offer.name].append(offer)
        for place in (offer.name, offer.model):
            self._paths.add(place.lower().rpartition("/")[0])
        # Of several snapshots the one with the shortest id stands for the model.
        slug = (offer.provider, slug_of(offer.model))
        known = self._by_slug.get(slug)
        if known is None or known is old or len(offer.model) <= len(known.model):
            self._by_slug[slug] = offer

    def offer(self, provider: str, model: str) -> Offer | None:
        """The offer of this id, or of the model that it is a snapshot of; None if unknown."""
        found = self._offers.get((provider, model))
        return found or self._by_slug.get((provider, slug_of(model)))

    def operations(self, provider: str, model: str) -> tuple[str, ...]:
        """What a model is for: as the catalogue has it, else by its name; () = not known."""
        found = self.offer(provider, model)
        if found is not None:
            return found.operations
        return next((done for words, done in _WORDS if words.search(model.lower())), ())

    def hosts(self, name: str) -> list[Offer]:
        """Who serves a model, by its common name or by any provider's id for it.

        A path in front has to be of some id: another one is a slip, and no name of a model.
        """
        path, slash, _ = name.lower().rpartition("/")
        if slash and path not in self._paths:
            return []
        return list(self._hosts.get(name) or self._hosts.get(name_of(name)) or ())

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._offers.values())

    def __len__(self) -> int:
        return len(self._offers)


def load(changes: Iterable[Mapping[str, object]] = ()) -> Catalog:
    """The vendored catalogue with the operator's changes: fields of `Offer` by name.

    Raises ValueError, saying which change is wrong.
    """
    data = decode(_FILE.read_bytes())
    catalog = Catalog(data.offers, data.date)
    for number, change in enumerate(changes):
        try:
            catalog.put(_changed(catalog, dict(change)))
        except (msgspec.ValidationError, KeyError) as exc:
            raise ValueError(f"[{number}]: {exc}") from exc
    return catalog


def _changed(catalog: Catalog, change: dict[str, object]) -> Offer:
    provider, model = str(change["provider"]), str(change["model"])
    old = catalog.offer(provider, model)
    base: dict[str, object] = {} if old is None else msgspec.to_builtins(old)
    base |= {"name": base.get("name", name_of(model)), "source": "configuration"} | change
    return msgspec.convert(base, Offer)
