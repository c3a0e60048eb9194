"""Counts what happened to the calls, so that a test can see from upstream what a gateway did."""

from __future__ import annotations

from collections import Counter
from typing import Any

from workers.sim.script import Script


class Stats:
    """One period of counting; `POST /stats/reset` starts another.

    A call is a request for a completion that was read to its end, whatever the answer; it ends as
    finished (the whole answer was written), faulted (broken on request) or aborted (the peer left).
    """

    def __init__(self) -> None:
        self.calls = 0
        self.most_open = 0
        self.finished = 0
        self.faulted = 0
        self.aborted = 0
        self.by_model: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.prompt_tokens: Counter[str] = Counter()
        self.completion_tokens: Counter[str] = Counter()

    def begin(self, script: Script, now_open: int) -> None:
        self.calls += 1
        self.most_open = max(self.most_open, now_open)
        if script.model:
            self.by_model[script.model] += 1

    def end(self, outcome: str, script: Script, tokens: int) -> None:
        """Ends a call as finished, faulted or aborted, after that many tokens."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if script.status:
            self.by_status[script.status] += 1
        self.prompt_tokens[outcome] += script.prompt_tokens
        self.completion_tokens[outcome] += tokens

    def report(self) -> dict[str, Any]:
        """The JSON of `GET /stats`; usage is what a provider would bill, by outcome."""
        outcomes = ("finished", "faulted", "aborted")
        return {
            "calls": self.calls,
            "most_open": self.most_open,
            **{outcome: getattr(self, outcome) for outcome in outcomes},
            "by_model": dict(self.by_model),
            "by_status": {str(status): count for status, count in self.by_status.items()},
            "usage": {
                outcome: {
                    "prompt_tokens": self.prompt_tokens[outcome],
                    "completion_tokens": self.completion_tokens[outcome],
                }
                for outcome in outcomes
            },
        }
