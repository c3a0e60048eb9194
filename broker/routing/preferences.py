"""Reads the `provider` object of a request: how the caller wants it routed.

Source: OpenRouter's provider preferences, and haimaker's `compliance`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from broker import providers
from broker.errors import InferenceError
from broker.routing.countries import CODES

Sort = Literal["price", "latency", "throughput"]
_Price = Annotated[float, msgspec.Meta(ge=0)]


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens, for a request beside its tokens, and for a picture."""

    prompt: _Price | None = None
    completion: _Price | None = None
    request: _Price | None = None
    image: _Price | None = None


class Percentiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds by percentile over the last minutes."""

    p50: _Price | None = None
    p75: _Price | None = None
    p90: _Price | None = None
    p99: _Price | None = None


class SortBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The long form of `sort`; `partition` "none" sorts over all models, not within each."""

    by: Sort
    partition: Literal["model", "none"] = "model"


class Preferences(msgspec.Struct, frozen=True):
    """See the module. Absent fields leave the choice to the policy."""

    order: list[str] | None = None
    only: list[str] | None = None
    ignore: list[str] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    quantizations: list[str] | None = None
    sort: Sort | SortBy | None = None
    max_price: MaxPrice | None = None
    # Tokens per second, and seconds to the first token: soft.
    preferred_min_throughput: _Price | Percentiles | None = None
    preferred_max_latency: _Price | Percentiles | None = None
    # ISO 3166-1 alpha-2, or EU.
    compliance: str | list[str] | None = None

    @property
    def by(self) -> str:
        """What to sort by; empty = as the policy says."""
        return self.sort.by if isinstance(self.sort, SortBy) else self.sort or ""

    @property
    def across(self) -> bool:
        """Whether all models are sorted together, not one after the other."""
        return isinstance(self.sort, SortBy) and self.sort.partition == "none"

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that a provider has to be certified for, in capitals."""
        given = [self.compliance] if isinstance(self.compliance, str) else self.compliance or []
        return tuple(code.upper() for code in given)


NONE = Preferences()
_decode = msgspec.json.Decoder(Preferences).decode


def read(source: bytes) -> Preferences:
    """The preferences in the JSON of `provider`; raises `InferenceError` invalid_request."""
    if not source:
        return NONE
    try:
        preferences = _decode(source)
    except msgspec.ValidationError as exc:
        message, _, where = str(exc).partition(" - at `$")
        path = where.rstrip("`")
        raise InferenceError("invalid_request", message, param=f"provider{path}") from exc
    for code in preferences.regions:
        if code not in CODES:
            raise InferenceError(
                "invalid_request",
                f"{code!r} is no ISO 3166-1 alpha-2 code of a country, nor EU",
                param="provider.compliance",
            )
    return preferences


def named(words: list[str] | None) -> list[str]:
    """Names of providers in their registered spelling; what nobody registered stays as it is."""
    return [providers.canonical(word.partition("/")[0]) or word for word in words or []]
