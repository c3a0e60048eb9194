"""The table: what a caller sees of every fault of every provider, and what it cost in calls.

All of it runs at once, through one running system, against a provider that speaks as each of them
does. A header that goes on to the provider says which fault it shall be.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.providers import REGISTRY
from tests.system.faults import TONGUES, WAIT_S
from tests.system.provider import Received, Said, fake_provider
from tests.system.stack import Answer, Stack

LIMIT = "429 with Retry-After"
OURS, THEIRS = "sk-ours-0123456789", "sk-theirs-0123456789"


@dataclass(frozen=True)
class Outcome:
    status: int
    type: str | None
    code: str | None
    finish: str | None
    calls: int


# What a provider's own code does not replace.
EXPECTED = {
    "our key rejected": Outcome(502, "server_error", "upstream_credentials", None, 1),
    "caller's key rejected": Outcome(401, "invalid_request_error", "invalid_provider_key", None, 1),
    LIMIT: Outcome(429, "rate_limit_error", "rate_limit_exceeded", None, 1),
    "overloaded": Outcome(503, "server_error", "upstream_overloaded", None, 3),
    "stream cut": Outcome(200, "server_error", "upstream_incomplete", None, 3),
    "safety stop": Outcome(200, None, None, "content_filter", 1),
}
# The fault in a word, as the header has it.
WORDS = {
    "our key rejected": "key",
    "caller's key rejected": "key",
    LIMIT: "limit",
    "overloaded": "overload",
    "stream cut": "cut",
    "safety stop": "safety",
}
CELLS = [(provider, fault) for provider in TONGUES for fault in EXPECTED]


def expected(provider: str, fault: str) -> Outcome:
    plain = EXPECTED[fault]
    code = TONGUES[provider].codes.get(WORDS[fault], plain.code)
    return Outcome(plain.status, plain.type, code, plain.finish, plain.calls)


def row_id(cell: tuple[str, str]) -> str:
    """The row as one line of the table."""
    o = expected(*cell)
    shown = [str(o.status), o.type, o.code, o.finish, f"{o.calls} call{'s' * (o.calls > 1)}"]
    return f"{cell[0]} | {cell[1]} -> {' '.join(word for word in shown if word)}"


@dataclass
class Seen:
    outcome: Outcome
    keys: set[str]
    text: str
    headers: httpx.Headers
    done: bool = False


def script(call: Received) -> Said:
    tongue = TONGUES[call.provider]
    fault = call.headers["x-fault"].partition("/")[0]
    return tongue.cut() if fault == "cut" else getattr(tongue, fault)


async def ask(stack: Stack, provider: str, fault: str) -> tuple[int, Answer, httpx.Headers]:
    """One request with a fault: streamed where a stream is to be cut."""
    headers = {"x-fault": f"{WORDS[fault]}/{fault}"}
    if fault == "caller's key rejected":
        headers["x-provider-key"] = THEIRS
    body: dict[str, Any] = {
        "model": f"{provider}/{TONGUES[provider].model}",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": fault == "stream cut",
    }
    answer = Answer()
    async with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        if reply.headers["content-type"].startswith("text/event-stream"):
            async for line in reply.aiter_lines():
                answer.take(line)
        else:
            await reply.aread()
            found = reply.json()
            answer.error = found.get("error")
            for choice in found.get("choices", ()):
                answer.finish = choice["finish_reason"]
        return reply.status_code, answer, reply.headers


async def run(folder: Path) -> dict[tuple[str, str], Seen]:
    async with fake_provider(script) as fake:
        providers = {
            name: {"base_url": fake.url(name), "api_key": OURS, **tongue.settings}
            for name, tongue in TONGUES.items()
        }
        stack = Stack(folder, providers=providers, serves=tuple(TONGUES))
        await stack.start(workers=1)
        try:
            # Last: a key that is over its limit rests, for whatever else is asked with it.
            last = [cell for cell in CELLS if cell[1] == LIMIT]
            first = [cell for cell in CELLS if cell[1] != LIMIT]
            answers: dict[tuple[str, str], tuple[int, Answer, httpx.Headers]] = {}
            for cells in (first, last):
                said = await asyncio.gather(*(ask(stack, *cell) for cell in cells))
                answers |= dict(zip(cells, said, strict=True))
        finally:
            await stack.stop()
    made = Counter((c.provider, c.headers["x-fault"].partition("/")[2]) for c in fake.calls)
    seen = {}
    for cell, (status, answer, headers) in answers.items():
        error = answer.error or {}
        outcome = Outcome(status, error.get("type"), error.get("code"), answer.finish, made[cell])
        mine = (
            c for c in fake.calls if (c.provider, c.headers["x-fault"].split("/", 1)[1]) == cell
        )
        seen[cell] = Seen(outcome, {c.key for c in mine}, answer.text, headers, answer.done)
    return seen


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Seen]:
    return asyncio.run(run(tmp_path_factory.mktemp("table")))


def test_every_provider_is_in_the_table() -> None:
    assert set(TONGUES) == set(REGISTRY) - {"sim"}


@pytest.mark.parametrize("cell", CELLS, ids=row_id)
def test_row(table: dict[tuple[str, str], Seen], cell: tuple[str, str]) -> None:
    seen = table[cell]
    assert seen.outcome == expected(*cell)
    assert seen.keys == {THEIRS if cell[1] == "caller's key rejected" else OURS}
    assert not seen.done
    if cell[1] == LIMIT:
        assert WAIT_S - 1 <= float(seen.headers["retry-after"]) <= WAIT_S
    if cell[1] == "stream cut":
        assert seen.text
