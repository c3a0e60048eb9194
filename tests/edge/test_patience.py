"""How long an attempt may be silent: by who is left, what the model does, and what is asked."""

from __future__ import annotations

import pytest

from broker.routing import Target
from broker.settings import Limits
from edge.patience import Patience

CASES = [
    # reasons, another left, tools -> first token, stall, in seconds
    (False, True, False, 10, 10),
    (False, False, False, 120, 10),
    (False, True, True, 10, 60),
    (False, False, True, 120, 60),
    (True, True, False, 600, 60),
    (True, False, True, 600, 60),
]


@pytest.mark.parametrize(("thinks", "has_next", "tools", "first", "stall"), CASES)
def test_limits(thinks: bool, has_next: bool, tools: bool, first: int, stall: int) -> None:
    target = Target("p", "main", "m", listed=True, thinks=thinks)
    limits = Patience(Limits()).of(target, has_next=has_next, tools=tools, left_ms=80_000)
    assert (limits.connect_ms, limits.first_token_ms, limits.stall_ms) == (
        5_000,
        first * 1000,
        stall * 1000,
    )
    # The next candidate has the other half.
    assert limits.whole_ms == (40_000 if has_next and not thinks else 0)
