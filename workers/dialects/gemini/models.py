"""What each Gemini model family accepts: one row per family, found by the model's name.

Source: the types of the official SDK (google-genai 3.4), Google's model documentation as of
2026-11 and recorded traffic. Names come with dates, previews and lines (`gemini-2.5-flash-lite`),
so a name is read as version and line; a newer version of a known line gets the line's newest row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """Thinking is asked for in tokens, `thinkingBudget`; `can_stop` where 0 turns it off."""

    low: int
    high: int
    can_stop: bool


@dataclass(frozen=True, slots=True)
class Levels:
    """Thinking is asked for by `thinkingLevel`; the first one is the least there is."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One row."""

    # None: any thinkingConfig is refused.
    thinking: Budget | Levels | None = None
    # Schemas go as JSON Schema; without it, as the subset of OpenAPI that `schema.lowered` makes.
    json_schema: bool = True
    # The ids of calls and results are matched, and a call has to come back with its signature.
    ids_and_signatures: bool = False
    # A JSON answer and functions in one request; images in the results of functions; googleSearch
    # beside functions.
    combines: bool = False
    # systemInstruction; without it the instruction stands before what the user says.
    system: bool = True
    # The function calling mode VALIDATED.
    validated: bool = False


_UP_TO_HIGH = Levels(("MINIMAL", "LOW", "MEDIUM", "HIGH"))
# Later models refuse MINIMAL, and every one with levels but the first takes these.
_FROM_LOW = Levels(("LOW", "MEDIUM", "HIGH"))

_GEMINI_1 = Family(json_schema=False)
_GEMINI_2 = Family()
_FLASH_2_5 = Family(Budget(1, 24_576, can_stop=True), validated=True)
_LITE_2_5 = replace(_FLASH_2_5, thinking=Budget(512, 24_576, can_stop=True))
_PRO_2_5 = replace(_FLASH_2_5, thinking=Budget(128, 32_768, can_stop=False))
_GEMINI_3 = Family(_UP_TO_HIGH, ids_and_signatures=True, combines=True, validated=True)
_PRO_3 = replace(_GEMINI_3, thinking=Levels(("LOW", "HIGH")))
_NEWEST = replace(_GEMINI_3, thinking=_FROM_LOW)
# Speaking and painting models, and Gemma, have no place for instructions.
_IMAGE = Family(system=False)
_IMAGE_3 = replace(_GEMINI_3, thinking=None, system=False, validated=False)
_IMAGE_3_1 = replace(_IMAGE_3, thinking=Levels(("MINIMAL", "HIGH")))
_PLAIN = Family(json_schema=False, system=False)

# Per line, the first version a row is true of, in ascending order. The first line whose word is in
# the name counts; the last one's is in all.
_LINES: dict[str, tuple[tuple[tuple[int, int], Family], ...]] = {
    "tts": (((0, 0), _PLAIN),),
    "image": (((0, 0), _IMAGE), ((3, 0), _IMAGE_3), ((3, 1), _IMAGE_3_1)),
    "lite": (((0, 0), _GEMINI_2), ((2, 5), _LITE_2_5), ((3, 0), _GEMINI_3)),
    "pro": (
        ((0, 0), _GEMINI_1),
        ((2, 0), _GEMINI_2),
        ((2, 5), _PRO_2_5),
        ((3, 0), _PRO_3),
        ((3, 1), _NEWEST),
    ),
    "": (
        ((0, 0), _GEMINI_1),
        ((2, 0), _GEMINI_2),
        ((2, 5), _FLASH_2_5),
        ((3, 0), _GEMINI_3),
        ((3, 7), _NEWEST),
    ),
}
_VERSION = re.compile(r"gemini-(\d{1,2})(?!\d)(?:\.(\d{1,2}))?")
# `gemini-flash-latest`, and lines of a later day: what the newest take.
_UNNUMBERED = (99, 0)


def family(model: str) -> Family:
    """The row for a model name such as `gemini-3-flash-preview` or `gemma-3-27b-it`."""
    name = model.lower()
    if "gemini" not in name:
        # Gemma, or a tuned model of one's own, whose name tells nothing.
        return _PLAIN if "gemma" in name else _GEMINI_2
    match = _VERSION.search(name)
    version = (int(match[1]), int(match[2] or 0)) if match else _UNNUMBERED
    rows = next(rows for line, rows in _LINES.items() if line in name)
    found = rows[0][1]
    for since, row in rows:
        if version >= since:
            found = row
    return found
