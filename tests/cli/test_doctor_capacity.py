"""What `millrace doctor` says of places that are limited."""

from __future__ import annotations

from broker.bus.survey import Survey
from broker.capacity import Allowance, Share
from broker.cli.doctor import OK, _capacity


def test_doctor_lists_what_is_limited_and_why() -> None:
    shares = {"a": Share(slots=6), "b": Share(slots=6)}
    allowances = (
        Allowance("sim", "", "echo"),  # nothing is known of it any more
        Allowance("groq", "1a2b3c4d", "llama", 3, slots=12, rate=48.5, why="found", shares=shares),
    )
    (found,) = _capacity(Survey("2.15.1", 5, (), (), (), allowances))
    assert (found.what, found.state) == ("capacity groq/llama 1a2b3c4d", OK)
    assert found.detail == "12 calls at a time, 48.5 calls/s (found) for 2 workers"
