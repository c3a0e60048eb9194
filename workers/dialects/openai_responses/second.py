"""Declares the Responses format as a provider's second one, beside chat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from workers.dialects.openai_responses import Errors, OpenAiResponses
from workers.dialects.openai_responses.parameters import RESPONSES
from workers.dialects.openai_responses.rule import (
    or_to_show_thoughts,
    whenever_asked,
    where_needed,
)
from workers.parameters import Family, Reasoning, Row, Rows
from workers.provider import Alternative

# Places of chat's body, and what they are here.
_PLACES = {"reasoning_effort": "reasoning.effort", "messages[]": "instructions"}


def second_format(
    errors: Errors,
    *rows: Iterable[Row],
    only: str = "",
    never: str = "",
    needed_only: bool = False,
    hosted_in_chat: bool = False,
    hides_thoughts: bool = False,
    plain_reasoning: bool = False,
    families: Iterable[Family] = (),
    reasoning: Reasoning = Reasoning.NEVER,
    while_reasoning: Iterable[Row] = (),
) -> Alternative:
    """What `Provider.alternative` is to be: who gets this format, and what differs from OpenAI's.

    Rows of chat's table may be given: they get the places that they have here.

    Args:
        errors: reads an error answer, as in chat.
        rows: what differs for all models.
        only: an expression that is found in the names of models that speak nothing else.
        never: the same for models that do not speak it.
        hosted_in_chat: chat takes hosted tools too, in a form of its own.
        hides_thoughts: chat shows nothing of the reasoning, so that callers of the Messages API who
            ask for thinking get it here.
        needed_only: so it does, and requests that came in this format are for chat where it can
            carry them.
        plain_reasoning: earlier reasoning goes back as text, as there is no encrypted content.
        families: what differs for some models.
        reasoning: whether models reason that no family names.
        while_reasoning: what differs for them while they do.
    """
    table = RESPONSES.but(
        *map(_placed, rows),
        families=[
            replace(
                family,
                differs=_placed(family.differs),
                while_reasoning=_placed(family.while_reasoning),
            )
            for family in families
        ],
        reasoning=reasoning,
        while_reasoning=_placed(while_reasoning),
    )
    wanted = whenever_asked(only, never, hosted_in_chat=hosted_in_chat)
    if needed_only:
        wanted = where_needed(only)
    if hides_thoughts:
        wanted = or_to_show_thoughts(wanted, lambda model: table.sheet(model).reasoning, never)
    dialect = OpenAiResponses(errors, plain_reasoning=plain_reasoning)
    return Alternative("Responses", dialect, table, wanted)


def _placed(rows: Iterable[Row]) -> Rows:
    return tuple(replace(row, path=_PLACES.get(row.path, row.path)) for row in rows)
