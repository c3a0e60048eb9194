"""Finds what signs a provider's calls; nothing that only another provider needs is imported.

A module of this package has `make(provider) -> Credentials`.
"""

from __future__ import annotations

import importlib

from workers.provider import Credentials, Provider


def load(provider: Provider) -> Credentials | None:
    """The credentials that the provider names; None where its key in a header is all it takes."""
    if not provider.credentials:
        return None
    module = importlib.import_module(f"workers.credentials.{provider.credentials}")
    made: Credentials = module.make(provider)
    return made
