"""Finds a provider by its name and applies what the operator configured.

A provider's module is imported when it is asked for, so that a worker loads nothing that only
another provider needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from broker.providers import REGISTRY, canonical
from workers.provider import Provider


class ProviderError(ValueError):
    """A provider cannot be set up; the message says what to change."""


class Settings(Protocol):
    """What the operator may say about one provider."""

    @property
    def name(self) -> str:
        """The name that models are prefixed with."""

    @property
    def kind(self) -> str:
        """A word of the registry."""

    @property
    def base_url(self) -> str | None:
        """Replaces the provider's own, with the API's prefix such as /v1."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models to list, where they are not the provider's own list."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Sent with every call, over the provider's own."""

    @property
    def options(self) -> Mapping[str, str]:
        """What only this kind of provider has: handed to the dialect among the quirks."""


def provider(name: str) -> Provider:
    """The provider as its module declares it; any accepted spelling of the name will do."""
    kind = canonical(name)
    if kind is None:
        known = ", ".join(sorted(REGISTRY))
        raise ProviderError(f"unknown provider {name!r}; known are: {known}")
    module = f"workers.providers.{kind}"
    if importlib.util.find_spec(module) is None:
        raise ProviderError(f"provider {kind!r} is not part of this build")
    declared = importlib.import_module(module).PROVIDER
    if not isinstance(declared, Provider):
        raise TypeError(f"workers.providers.{kind}.PROVIDER is not a Provider")
    return declared


def load(settings: Settings) -> Provider:
    """The provider with the operator's address, headers and models in place of the declared."""
    declared = provider(settings.kind)
    declared = replace(
        declared,
        base_url=settings.base_url or declared.base_url,
        quirks={**declared.quirks, **settings.options},
    )
    if declared.configure is not None:
        try:
            declared = declared.configure(declared)
        except ValueError as exc:
            raise ProviderError(f"provider {settings.name!r}: {exc}") from exc
    base_url = (settings.base_url or declared.base_url).rstrip("/")
    if not base_url:
        raise ProviderError(
            f"provider {settings.name!r} has no address: set {settings.name.upper()}_BASE_URL"
        )
    return replace(
        declared,
        name=settings.name,
        base_url=base_url,
        headers={**declared.headers, **settings.headers},
        models=settings.models or declared.models,
    )
