"""What stands below the bar of a batch, also in a narrow terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.live import Live

from broker.batch.meter import Speed
from broker.cli.batch.progress import _Bar, describe

SAID = "12 calls at a time (found), 11 running, 57 429s (3 in the last minute), left alone for 4 s"
SEEN: dict[str, Any] = {
    "batch": {
        "status": "in_progress",
        "request_counts": {"completed": 1000, "failed": 3, "total": 5000},
    },
    "cost": "0.12",
    "capacity": [
        {"provider": "groq", "model": "llama-3.3-70b-versatile", "said": SAID},
        {"provider": "sim", "model": "echo", "said": "no limit known, 3 running"},
    ],
}


def test_all_of_it_is_seen_at_80_columns() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        _Bar(live).show(SEEN, Speed(98.5, 1234, 40))
    text = " ".join(out.getvalue().split())
    assert (
        "1,003/5,000, 3 failed, 98.5 lines/s, 1,234 tokens/s, $0.1200 of ~$0.5982, 40 s left "
        f"groq/llama-3.3-70b-versatile: {SAID} sim/echo: no limit known, 3 running"
    ) in text


def test_while_its_input_is_checked_it_is_told_how_far_that_is() -> None:
    counts = {"completed": 0, "failed": 0, "total": 0}
    batch = {"status": "validating", "request_counts": counts}
    assert describe({"batch": batch, "validated": 340_000}, Speed()) == "340,000 lines"
