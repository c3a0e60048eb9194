"""The registry of provider names: the one place that lists them.

A worker loads `workers.providers.<name>`; the environment prefix is the name in capitals.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider: other spellings of its name, and whether it works without a key."""

    aliases: tuple[str, ...] = ()
    keyless: bool = False


REGISTRY: dict[str, Entry] = {
    "openai": Entry(),
    "anthropic": Entry(),
    "openai_compatible": Entry(aliases=("openai-compatible",), keyless=True),
    "sim": Entry(keyless=True),
}

_SPELLINGS = {alias: name for name, entry in REGISTRY.items() for alias in (name, *entry.aliases)}


def canonical(name: str) -> str | None:
    """The registry's name for any accepted spelling, or None."""
    return _SPELLINGS.get(name.lower())
