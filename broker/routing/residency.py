"""Where a provider processes requests: the operator's word, else its own documents; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

# Who says it where the operator does.
SETTINGS = "the settings"


class Claim(msgspec.Struct, frozen=True):
    """Requests for models whose names begin with `models` are processed in these regions alone.

    `regions` are ISO 3166-1 alpha-2 codes, or EU. `source` is an address that says so, `date` the
    day on which it was read there (YYYY-MM-DD).
    """

    regions: frozenset[str]
    source: str
    date: str = ""
    models: str = ""

    def __str__(self) -> str:
        read = f" ({self.date})" if self.date else ""
        return f"{', '.join(sorted(self.regions)) or 'nowhere'}, by {self.source}{read}"


def claim(model: str, written: frozenset[str] | None, announced: Iterable[Claim]) -> Claim | None:
    """What holds for a model: what is `written` in the settings, else what workers announce."""
    if written is not None:
        return Claim(written, SETTINGS)
    holding = [one for one in announced if model.startswith(one.models)]
    return max(holding, key=lambda one: len(one.models), default=None)


def agreed(said: Mapping[str, list[frozenset[Claim]]]) -> dict[str, frozenset[Claim]]:
    """By provider, the claims that all of its workers make: one may call another address."""
    return {name: frozenset.intersection(*claims) for name, claims in said.items() if claims}
