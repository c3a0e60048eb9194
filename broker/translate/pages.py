"""One page of a list of items, as the API's lists are asked for; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.translate.refusals import invalid

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


def page(
    items: Sequence[Any], query: Mapping[str, str], id_of: Callable[[Any], str]
) -> dict[str, Any]:
    """The list object for a query of `limit`, `order`, `after` and `before`; newest first.

    Raises:
        InferenceError: invalid_request, naming what is wrong.
    """
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise invalid("order", f"Invalid value: '{order}'. Supported values are: 'asc', 'desc'.")
    limit = read_limit(query)
    ordered = list(items) if order == "asc" else list(reversed(items))
    ids = [id_of(item) for item in ordered]
    start, end = 0, len(ordered)
    if (after := query.get("after")) is not None:
        start = _place(ids, after, "after") + 1
    if (before := query.get("before")) is not None:
        end = _place(ids, before, "before")
    shown = ordered[start:end][:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": id_of(shown[0]) if shown else None,
        "last_id": id_of(shown[-1]) if shown else None,
        "has_more": start + len(shown) < end,
    }


def read_limit(
    query: Mapping[str, str], most: int = MAX_LIMIT, default: int = DEFAULT_LIMIT
) -> int:
    """How many are asked for at a time. Raises `InferenceError` invalid_request."""
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise invalid("limit", f"Invalid 'limit': expected a number from 1 to {most}.")
    return int(limit)


def _place(ids: Sequence[str], name: str, param: str) -> int:
    if name not in ids:
        raise invalid(param, f"No item with id '{name}' is in this list.")
    return ids.index(name)
