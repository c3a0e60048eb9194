"""The requests that an edge has, by their ids and by the names that their callers gave them."""

from __future__ import annotations

from broker.errors import InferenceError
from edge.exchange import Exchange


class Register:
    """See the module. Names are of one owner."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def require_free(self, owner: str, alias: str) -> None:
        """Refuse a name that a running request has. Raises `InferenceError`."""
        if alias and (owner, alias) in self._aliases:
            raise InferenceError(
                "idempotency_conflict", f"request {alias!r} is running already", param="request_id"
            )

    def add(self, exchange: Exchange) -> None:
        """It runs from now on; its name, if it has one, is free."""
        self.exchanges[exchange.request_id] = exchange
        if exchange.alias:
            self._aliases[exchange.key.owner, exchange.alias] = exchange.request_id

    def remove(self, exchange: Exchange) -> bool:
        """It is over; False where that was known."""
        if self.exchanges.pop(exchange.request_id, None) is None:
            return False
        if exchange.alias:
            self._aliases.pop((exchange.key.owner, exchange.alias), None)
        return True

    def find(self, owner: str, name: str) -> Exchange | None:
        """The running request of this owner with this name or id."""
        exchange = self.exchanges.get(self._aliases.get((owner, name), name))
        return exchange if exchange is not None and exchange.key.owner == owner else None
