"""Metadata: at most 16 short texts by name, to be kept beside what they tell of."""

from __future__ import annotations

from collections.abc import Mapping

from broker.translate.refusals import invalid

_LONGEST = {"name": 64, "value": 512}
_MOST = 16


def read_metadata(given: Mapping[str, str | None]) -> dict[str, str]:
    """The metadata without what is null.

    Raises:
        InferenceError: invalid_request; there is too much of it.
    """
    if len(given) > _MOST:
        raise invalid(
            "metadata",
            f"Invalid 'metadata': too many properties. Expected an object with at most "
            f"{_MOST} properties, but got an object with {len(given)} properties instead.",
            "object_above_max_properties",
        )
    for name, text in given.items():
        for what, said in (("name", name), ("value", text or "")):
            if len(said) > _LONGEST[what]:
                param = f"metadata.{name[: _LONGEST['name']]}"
                message = (
                    f"Invalid '{param}': string too long. Expected a {what} with maximum length "
                    f"{_LONGEST[what]}, but got a string with length {len(said)} instead."
                )
                raise invalid(param, message, "string_above_max_length")
    return {name: text for name, text in given.items() if text is not None}
