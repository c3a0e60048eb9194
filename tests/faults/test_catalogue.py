"""The whole catalogue against `millrace up`, as a user starts it: with two providers.

The fake provider is both of them; each is the other's fallback. Time limits are the defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from broker.bus import connect
from broker.bus.usage import usage_groups
from broker.config import NatsSettings
from broker.ledger import Ledger, Line
from broker.rundir import RunFolder
from tests.faults.catalogue import Case, End, cases
from tests.faults.clients import ASK, Heard
from tests.faults.formats import ARGUMENTS, SHOWN, TEXT, TOOL
from tests.faults.stage import Stage, staged
from tests.system.stack import until

AT_ONCE = 64
GAUGES = ("in_flight", "queue_depth", "running", "published", "worker_calls", "worker_busy")
# Providers that nobody reaches: nobody listens, no such host, and no TLS there.
NOWHERE = {
    "refused": "http://127.0.0.1:9/v1",
    "nameless": "http://no-such-host.invalid/v1",
    "plain": "https://127.0.0.1:{port}/v1",
}
SHORT, LARGER = "context.0.short", "fine.0.larger"
BACKUP = {"openai": "anthropic/fine.0.backup", "anthropic": "openai/fine.0.backup"}
# Models with limits of their own, in place of 10 s and 90 s.
TIMEOUTS = {
    "openai/hang.0.whole": {"total_s": 1.5},
    "openai/hang.0.first": {"first_token_s": 1.5},
    "anthropic/late-token.0.first": {"first_token_s": 1.5},
    "openai/stall.1.stall": {"stall_s": 1.5},
    "openai/cut-then-hang.3.s08": {"first_token_s": 1.5},
    # Who writes a tool call may fall silent for a minute otherwise.
    **{f"{name}/stall.{hits}.tools-{name}": {"stall_s": 1.5} for name in BACKUP for hits in (0, 1)},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    offers = [
        {"provider": "openai", "model": model, "max_input": size}
        for model, size in ((SHORT, 100), (LARGER, 1000))
    ]
    settings = {"routing": {"offers": offers}, "timeouts": TIMEOUTS}
    with staged(tmp_path_factory.mktemp("stage"), settings, NOWHERE) as stage:
        yield stage


@dataclass
class Play:
    """Plays cases, some at a time, and collects what went wrong."""

    stage: Stage
    http: httpx.AsyncClient
    wrong: dict[str, str] = field(default_factory=dict)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def one(self, case: Case, front: str) -> None:
        name = f"{case.model}.{front}"
        async with self._places:
            begun = time.monotonic()
            heard = await ASK[front](
                self.http,
                f"{case.format}/{name}",
                stream=case.stream,
                models=[BACKUP[case.format]],
            )
            took = time.monotonic() - begun
        stats = await self.stage.stats(self.http)
        calls = stats["calls"].get(name, 0)
        wrong = [*judged(case, heard, calls, took)]
        answering = name if heard.by == case.format else BACKUP[case.format].partition("/")[2]
        if not heard.error and heard.model != answering:  # S16
            wrong.append(f"the answer says it is of {heard.model!r}")
        if stats["prefills"].get(name):
            wrong.append("a prefill was sent that nobody asked for")
        if wrong:
            self.wrong[f"{case} by {front}"] = "; ".join(wrong) + f" [{took:.1f} s] {heard}"


def judged(case: Case, heard: Heard, calls: int, took: float) -> Iterator[str]:
    """What is not as required."""
    required = case.required
    yield from heard.strange()
    end = End.ERROR if heard.error else End.ITSELF if heard.by == case.format else End.BACKUP
    if end not in required.ends:
        yield f"ended as {end}"
    if not heard.error and heard.text != TEXT:
        yield "a success that is not the whole answer"
    if heard.error and not TEXT.startswith(heard.text):
        yield "what was shown is not how the answer begins"
    if heard.error and required.code not in {"", heard.error.get("code", required.code)}:
        yield f"code {heard.error['code']}"
    if not required.calls[0] <= calls <= required.calls[1]:
        yield f"{calls} calls, not {required.calls}"
    if not required.seconds[0] <= took <= required.seconds[1]:
        yield f"took {took:.1f} s, not {required.seconds}"
    if not heard.error and not heard.usage.get("total"):
        yield "no usage"


@pytest.mark.timeout(280)
async def test_every_fault_of_the_catalogue_ends_as_it_has_to(stage: Stage) -> None:
    """Asked in chat's format, and of Anthropic in its own too."""
    asked = [(case, "chat") for case in cases()]
    asked += [(case, "messages") for case in cases() if case.format == "anthropic"]
    asked.sort(key=lambda row: row[0].required.seconds[0], reverse=True)
    async with stage.client() as http:
        play = Play(stage, http)
        await asyncio.gather(*(play.one(case, front) for case, front in asked))
        told = "\n".join(f"{name}: {what}" for name, what in sorted(play.wrong.items()))
        assert not play.wrong, f"{len(play.wrong)} of {len(asked)}:\n{told}"

        async def idle() -> bool:
            return not any([await stage.gauge(http, name) for name in GAUGES])

        await until(idle, "nothing is left running")


async def test_a_provider_that_cannot_be_reached_is_the_next_ones_turn(stage: Stage) -> None:
    async def tried(http: httpx.AsyncClient, name: str, *, stream: bool) -> None:
        model = f"{name}/m-{stream}"
        begun = time.monotonic()
        heard = await ASK["chat"](http, model, stream=stream, models=[BACKUP["openai"]])
        assert (heard.by, heard.text) == ("anthropic", TEXT), name
        assert time.monotonic() - begun < 20
        alone = await ASK["chat"](http, model, stream=stream, models=[])
        code = (alone.error or {}).get("code")
        assert (alone.status, code) in {(502, "upstream_error"), (504, "connect_timeout")}, name

    async with stage.client() as http:
        await asyncio.gather(
            *(tried(http, name, stream=stream) for name in NOWHERE for stream in (True, False))
        )


async def test_s06_a_whole_answer_that_does_not_come_leaves_time_for_the_next_one(
    stage: Stage,
) -> None:
    async with stage.client() as http:
        http.headers["x-millrace-timeout"] = "12"
        begun = time.monotonic()
        heard = await asyncio.gather(
            *(
                ASK["chat"](http, f"{name}/{scene}.0.s06", stream=False, models=[BACKUP[name]])
                for name in BACKUP
                for scene in ("hang", "slow-head", "late")
            )
        )
    assert {one.text for one in heard} == {TEXT}
    assert 5 < time.monotonic() - begun < 11


@pytest.mark.parametrize(
    ("model", "stream", "by"),
    [
        ("openai/hang.0.whole", False, "anthropic"),
        ("openai/hang.0.first", True, "anthropic"),
        ("anthropic/late-token.0.first", True, "openai"),
        ("openai/stall.1.stall", True, "openai"),
    ],
)
async def test_s06_s07_s09_a_model_has_time_limits_of_its_own(
    stage: Stage, model: str, stream: bool, by: str
) -> None:
    async with stage.client() as http:
        begun = time.monotonic()
        backup = BACKUP[model.partition("/")[0]]
        heard = await ASK["chat"](http, model, stream=stream, models=[backup])
        assert (heard.by, heard.text) == (by, TEXT)
        assert 1.4 < time.monotonic() - begun < 9


@pytest.mark.parametrize("provider", BACKUP)
async def test_s09_a_tool_call_that_stalls_is_whole_in_the_end_or_a_typed_error(
    stage: Stage, provider: str
) -> None:
    tools = [{"type": "function", "function": {"name": TOOL, "parameters": {"type": "object"}}}]

    async def asked(http: httpx.AsyncClient, hits: int) -> Heard:
        model = f"{provider}/stall.{hits}.tools-{provider}"
        more = {"models": [BACKUP[provider]], "tools": tools}
        begun = time.monotonic()
        heard = await ASK["chat"](http, model, stream=True, **more)
        assert 1.4 < time.monotonic() - begun < 9
        assert not [*heard.strange()]
        return heard

    async with stage.client() as http:
        once, always = await asyncio.gather(asked(http, 1), asked(http, 0))
        calls = (await stage.stats(http))["calls"]
    assert (once.by, once.arguments, once.finish) == (provider, "".join(ARGUMENTS), "tool_calls")
    assert calls[f"stall.1.tools-{provider}"] == 2
    # No other provider goes on with what one has begun.
    assert always.error is not None
    assert always.error["code"] == "stalled"
    assert (always.by, "".join(ARGUMENTS).startswith(always.arguments)) == (provider, True)
    assert always.arguments.endswith(ARGUMENTS[SHOWN - 1])


async def test_s07_a_request_says_how_long_a_first_token_may_take(stage: Stage) -> None:
    async with stage.client() as http:
        begun = time.monotonic()
        asked = {"first_token_timeout_ms": 1500, "models": [BACKUP["openai"]]}
        heard = await ASK["chat"](http, "openai/hang.0.asked", stream=True, **asked)
        assert (heard.by, heard.text) == ("anthropic", TEXT)
        assert 1.4 < time.monotonic() - begun < 9


async def test_s02_who_is_over_the_limit_for_ever_is_called_seldom_and_left(stage: Stage) -> None:
    async def asked(http: httpx.AsyncClient, name: str, scene: str, *, stream: bool) -> None:
        model = f"{scene}.0.s02-{stream}-{name}"
        heard = await ASK["chat"](http, f"{name}/{model}", stream=stream, models=[BACKUP[name]])
        assert (heard.by, heard.text) == (BACKUP[name].partition("/")[0], TEXT)
        times = (await stage.stats(http))["times"][model]
        assert len([seconds for seconds in times if seconds <= 3]) <= 4
        assert len(times) <= 6

    async with stage.client() as http:
        await asyncio.gather(
            *(
                asked(http, name, scene, stream=stream)
                for name in BACKUP
                for scene in ("limited", "status-429")
                for stream in (True, False)
            )
        )


@pytest.mark.parametrize("trouble", ["503", "429", "reset", "hang"])
async def test_s08_a_cut_answer_is_rescued_though_the_next_calls_do_not_begin(
    stage: Stage, trouble: str
) -> None:
    """A provider that restarts: cut, twice out of order, then well."""
    model = f"cut-then-{trouble}.3.s08"
    async with stage.client() as http:
        heard = await ASK["chat"](http, f"openai/{model}", stream=True, models=[BACKUP["openai"]])
        assert (heard.by, heard.text, heard.error) == ("openai", TEXT, None)
        assert (await stage.stats(http))["calls"][model] == 4


async def test_s12_what_is_too_long_goes_to_a_model_that_is_known_to_be_larger(
    stage: Stage,
) -> None:
    async with stage.client() as http:
        for stream in (True, False):
            heard = await ASK["chat"](
                http,
                f"openai/{SHORT}",
                stream=stream,
                models=[BACKUP["openai"], f"openai/{LARGER}"],
            )
            assert (heard.by, heard.text) == ("openai", TEXT)
        calls = (await stage.stats(http))["calls"]
    assert (calls[SHORT], calls[LARGER]) == (2, 2)


# Seconds that a provider is down for, and calls it gets at most; the minute is for `make soak`.
DOWN = [(10.0, 8), (60.0, 14)] if "SOAK_SECONDS" in os.environ else [(10.0, 8)]


@pytest.mark.parametrize(("down_s", "most_calls"), DOWN)
async def test_s15_who_is_down_is_asked_now_and_then_and_taken_back_in_30_s(
    stage: Stage, down_s: float, most_calls: int
) -> None:
    model = f"status-503.0.s15-{down_s:.0f}"
    async with stage.client() as http:

        async def by() -> str:
            heard = await ASK["chat"](
                http, f"openai/{model}", stream=True, models=[BACKUP["openai"]]
            )
            assert heard.text == TEXT
            return heard.by

        for _ in range(20):
            assert await by() == "anthropic"
            await asyncio.sleep(down_s / 20)
        # Without memory it were three calls for each request. Three open the breaker; then one call
        # at a time tries, 2, 4 and 8 s apart.
        calls = (await stage.stats(http))["calls"][model]
        assert calls <= most_calls, f"{calls} calls"
        await http.get(f"{stage.provider}/mend?{model}")
        deadline = time.monotonic() + 30
        while await by() != "openai":
            assert time.monotonic() < deadline, "the provider that recovered was not taken back"
            await asyncio.sleep(0.5)


async def test_s15_requests_that_run_when_a_provider_dies_do_not_all_try_again(
    stage: Stage,
) -> None:
    model = "status-503.0.s15-flight"
    async with stage.client() as http:
        heard = await asyncio.gather(
            *(
                ASK["chat"](http, f"openai/{model}", stream=True, models=[BACKUP["openai"]])
                for _ in range(20)
            )
        )
        assert {one.text for one in heard} == {TEXT}
        calls = (await stage.stats(http))["calls"][model]
        # Each was asked once, and few before the breaker opened had begun to wait.
        assert calls <= 28, f"{calls} calls"


async def test_s16_what_failed_is_on_record_and_only_answers_are_charged(stage: Stage) -> None:
    async def total() -> Line:
        ledger = Ledger()
        async for group in usage_groups(bus):
            ledger.apply(group)
        return ledger.total()

    bus = await connect(NatsSettings(url=RunFolder(stage.data).nats_url()), name="test")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        http = await stack.enter_async_context(stage.client())
        before = await total()
        heard = await ASK["chat"](http, "openai/status-500.2.s16", stream=True, models=[])
        assert heard.text == TEXT

        async def charged() -> bool:
            return (await total()).charges == before.charges + 1

        await until(charged, "the answer is charged")
        after = await total()
    assert after.failed == before.failed + 2


async def test_sound_that_breaks_off_or_falls_silent_never_looks_whole(stage: Stage) -> None:
    async def hear(http: httpx.AsyncClient, scene: str) -> bytes:
        body = {"model": f"openai/{scene}.0.voice", "input": "hello", "voice": "alloy"}
        answer = await http.post("/v1/audio/speech", json=body)
        assert answer.status_code == 200
        return answer.content

    async def breaks(http: httpx.AsyncClient, scene: str) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await hear(http, scene)

    async with stage.client() as http:
        assert await hear(http, "fine") == b"sound" * 1000
        await asyncio.gather(breaks(http, "cut"), breaks(http, "stall"))
