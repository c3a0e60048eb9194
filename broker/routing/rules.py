"""What the operator writes about routing, as the file has it, and the rules that it makes; pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from broker import providers
from broker.catalog import catalog
from broker.routing.countries import CODES
from broker.routing.world import Alias, Deployment, Rules

__all__ = ["Rules", "Section", "rules"]

_Weight = Annotated[float, msgspec.Meta(gt=0)]


class _Deployment(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    weight: _Weight = 1.0


class _Alias(msgspec.Struct, forbid_unknown_fields=True):
    deployments: Annotated[list[str | _Deployment], msgspec.Meta(min_length=1)]
    fallbacks: list[str] = []


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """`routing` of the settings file."""

    # A name of the operator's own -> a model, several of equal right, or these with weights.
    aliases: dict[str, str | list[str] | _Alias] = {}
    # Model -> what is tried after it.
    fallbacks: dict[str, list[str]] = {}
    # Model -> what is tried where a prompt is too long for it.
    context_fallbacks: dict[str, list[str]] = {}
    # Provider -> regions that it is certified for.
    compliance: dict[str, list[str]] = {}
    # Providers that keep nothing of a request.
    private: list[str] = []
    # Provider -> the quantization of what it serves.
    quantizations: dict[str, str] = {}
    # Model as it is asked for -> milliseconds without content after which a second attempt runs.
    hedge_after_ms: dict[str, Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]] = {}
    # Changes to the catalogue: fields of an offer.
    offers: list[dict[str, Any]] = []


def rules(section: Section) -> Rules:
    """The rules of a section. Raises ValueError, which begins with the path of the field."""
    for provider, codes in section.compliance.items():
        for code in codes:
            if code.upper() not in CODES:
                raise ValueError(
                    f"compliance.{provider}: {code!r} is no ISO 3166-1 alpha-2 code, nor EU"
                )
    for name, written in section.aliases.items():
        if not written:
            raise ValueError(f"aliases.{name}: names no model")
        if "/" in name and providers.canonical(name.partition("/")[0]):
            raise ValueError(f"aliases.{name}: begins with the name of a provider")
    if section.offers:
        try:
            catalog.load(section.offers)
        except ValueError as exc:
            raise ValueError(f"offers{exc}") from exc
    return Rules(
        aliases={name: _alias(written) for name, written in section.aliases.items()},
        fallbacks={model: tuple(names) for model, names in section.fallbacks.items()},
        context_fallbacks={
            model: tuple(names) for model, names in section.context_fallbacks.items()
        },
        compliance={
            _provider(name): frozenset(map(str.upper, codes))
            for name, codes in section.compliance.items()
        },
        private=frozenset(map(_provider, section.private)),
        quantizations={_provider(name): word for name, word in section.quantizations.items()},
        hedge_after_ms=section.hedge_after_ms,
    )


def _alias(written: str | list[str] | _Alias) -> Alias:
    if isinstance(written, str):
        return Alias((Deployment(written),))
    if isinstance(written, list):
        return Alias(tuple(map(Deployment, written)))
    deployments = (
        Deployment(one) if isinstance(one, str) else Deployment(one.model, one.weight)
        for one in written.deployments
    )
    return Alias(tuple(deployments), tuple(written.fallbacks))


def _provider(name: str) -> str:
    return providers.canonical(name) or name
