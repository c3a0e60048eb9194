"""Which providers can answer a request, and in which order they are tried; pure."""

from __future__ import annotations

from broker.routing.decision import Decision, Slate, decide, present, slate
from broker.routing.fleet import Fleet, Target, near, not_found
from broker.routing.world import Ask, World

__all__ = [
    "Ask",
    "Decision",
    "Fleet",
    "Slate",
    "Target",
    "World",
    "decide",
    "near",
    "not_found",
    "present",
    "slate",
]
