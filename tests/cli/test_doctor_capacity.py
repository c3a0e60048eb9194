"""What `millrace doctor` says of places that are limited."""

from __future__ import annotations

from broker.bus.survey import Survey
from broker.capacity import Share
from broker.cli.doctor import OK, _capacity
from broker.standing import Standing


def test_doctor_lists_what_is_limited_and_why() -> None:
    shares = {"a": Share(slots=6), "b": Share(slots=6)}
    llama = Standing("groq", "1a2b3c4d", "llama", 12, 48.5, why="found", running=9, shares=shares)
    standings = (Standing("sim", "", "echo", running=3), llama)  # the first is not limited
    (found,) = _capacity(Survey("2.15.1", 5, (), (), (), standings))
    assert (found.what, found.state) == ("capacity groq/llama 1a2b3c4d", OK)
    assert found.detail == "12 calls at a time, 48.5 calls/s (found), 9 running; 2 workers"
