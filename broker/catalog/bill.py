"""Prices answers: the offer of whoever answered, and what its prices make of a usage; pure."""

from __future__ import annotations

from broker.catalog.catalog import Catalog
from broker.catalog.cost import cost
from broker.catalog.offers import Offer
from broker.v1 import event_pb2, record_pb2

# Callers choose names: they must not fill the memory.
_MOST_KEPT = 10_000
# A way of processing. Where the catalogue has no prices for it, it costs half.
_BATCH = "batch"
_BATCH_SHARE = 2


class Bill:
    """See the module."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._offers: dict[tuple[str, str], Offer | None] = {}

    def cost(
        self, provider: str, model: str, completed: event_pb2.Completed, *, batch: bool = False
    ) -> event_pb2.Cost | None:
        """What an answer costs; None where nobody knows the model's prices.

        `batch`: it came of the provider's batch API.
        """
        offer = self._offer(provider, model)
        if offer is None or not offer.rates.prices:
            return None
        nano_usd = cost(
            offer, completed.usage, processing=_BATCH if batch else completed.service_tier
        )
        if batch and _BATCH not in offer.variants:
            nano_usd = -(-nano_usd // _BATCH_SHARE)
        return event_pb2.Cost(
            nano_usd=nano_usd,
            source=offer.source,
            date=self._catalog.date,
        )

    def priced(self, provider: str, model: str) -> bool:
        """Whether it is known what its answers cost."""
        offer = self._offer(provider, model)
        return offer is not None and bool(offer.rates.prices)

    def most_output(self, provider: str, model: str) -> int:
        """Tokens of its longest answer; 0 = not known."""
        offer = self._offer(provider, model)
        return offer.max_output if offer is not None else 0

    def price(self, charge: record_pb2.Charge) -> None:
        """Add the cost to a charge that was written without."""
        if charge.HasField("cost"):
            return
        completed = event_pb2.Completed(usage=charge.usage)
        found = self.cost(charge.route.provider, charge.route.model, completed)
        if found is not None:
            charge.cost.CopyFrom(found)

    def _offer(self, provider: str, model: str) -> Offer | None:
        place = provider, model
        if place not in self._offers:
            if len(self._offers) >= _MOST_KEPT:
                self._offers.clear()
            self._offers[place] = self._catalog.offer(provider, model)
        return self._offers[place]
