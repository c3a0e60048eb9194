"""How long an attempt may be silent: by who is left, what the model does, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from broker.routing import Target
from broker.settings import Limits
from broker.timeouts import Timeouts
from broker.v1 import delivery_service_pb2, generation_pb2, operations_pb2
from edge.engine import Engine
from edge.patience import Patience
from edge.work import Work
from tests.edge.story import A, B, Story

CASES = [
    # reasons, another left, tools -> first token, stall, in seconds
    (False, True, False, 10, 10),
    (False, False, False, 120, 10),
    (False, True, True, 10, 60),
    (False, False, True, 120, 60),
    (True, True, False, 600, 60),
    (True, False, True, 600, 60),
]
LONG_S = 2000


def limits(
    timeouts: Mapping[str, Timeouts] | None = None,
    *,
    model: str = "m",
    thinks: bool = False,
    has_next: bool = True,
    tools: bool = False,
    lengthy: bool = False,
    left_s: float = LONG_S,
    output_tokens: int = 0,
    platform: generation_pb2.Platform | None = None,
) -> delivery_service_pb2.TimeLimits:
    return Patience(Limits(), timeouts or {}).of(
        Target("p", "main", model, listed=True, thinks=thinks),
        Work(
            platform or generation_pb2.Platform(),
            tools=tools,
            lengthy=lengthy,
            output_tokens=output_tokens,
        ),
        has_next=has_next,
        left_ms=int(left_s * 1000),
    )


@pytest.mark.parametrize(("thinks", "has_next", "tools", "first", "stall"), CASES)
def test_limits(thinks: bool, has_next: bool, tools: bool, first: int, stall: int) -> None:
    found = limits(thinks=thinks, has_next=has_next, tools=tools)
    assert (found.connect_ms, found.first_token_ms, found.stall_ms) == (
        5_000,
        first * 1000,
        stall * 1000,
    )
    assert found.total_ms == 0


@pytest.mark.parametrize(
    ("thinks", "lengthy", "output_tokens", "whole_s"),
    [
        (False, False, 0, 90),
        (False, False, 500, 90),
        (False, False, 8000, 320),  # written at 25 tokens a second
        (True, False, 0, 300),
        (True, False, 8000, 320),
        (False, True, 0, 300),
    ],
)
def test_a_whole_answer_that_does_not_come_is_left_while_another_candidate_is_there(
    thinks: bool, lengthy: bool, output_tokens: int, whole_s: int
) -> None:
    found = limits(thinks=thinks, lengthy=lengthy, output_tokens=output_tokens)
    assert found.whole_ms == whole_s * 1000
    alone = limits(thinks=thinks, lengthy=lengthy, output_tokens=output_tokens, has_next=False)
    assert alone.whole_ms == 0  # the deadline


@pytest.mark.parametrize("thinks", [False, True])
def test_the_next_candidate_has_half_of_the_time_left(thinks: bool) -> None:
    found = limits(thinks=thinks, left_s=12)
    assert found.whole_ms == 6000
    assert found.first_token_ms == 6000
    alone = limits(thinks=thinks, left_s=12, has_next=False)
    assert alone.first_token_ms > 12_000


PROVIDER = {"p": Timeouts(connect_s=1, first_token_s=20, stall_s=3, total_s=50)}
MODEL = {**PROVIDER, "p/m": Timeouts(first_token_s=7)}


@pytest.mark.parametrize("has_next", [True, False])
def test_what_is_said_of_a_provider_holds_for_all_of_its_models(has_next: bool) -> None:
    found = limits(PROVIDER, has_next=has_next)
    assert (found.connect_ms, found.first_token_ms, found.stall_ms) == (1000, 20_000, 3000)
    # Of the whole call; connecting comes on top, which has a limit of its own.
    assert (found.whole_ms, found.total_ms) == (50_000, 51_000)
    elsewhere = limits({"q": PROVIDER["p"]}, has_next=has_next)
    assert elsewhere == limits(has_next=has_next)


def test_what_is_said_of_a_model_is_narrower_field_by_field() -> None:
    found = limits(MODEL)
    assert (found.connect_ms, found.first_token_ms, found.stall_ms) == (1000, 7000, 3000)
    assert limits(MODEL, model="n").first_token_ms == 20_000


def test_a_model_that_reasons_is_cut_short_by_its_own_limits_alone() -> None:
    assert limits(PROVIDER, thinks=True, model="n").first_token_ms == 50_000  # of the total
    wide = {"p": Timeouts(first_token_s=20, stall_s=3)}
    found = limits(wide, thinks=True)
    assert (found.first_token_ms, found.stall_ms) == (600_000, 60_000)
    assert limits({"p": Timeouts(first_token_s=900)}, thinks=True).first_token_ms == 900_000
    own = limits({**wide, "p/m": Timeouts(first_token_s=30, stall_s=8)}, thinks=True)
    assert (own.first_token_ms, own.stall_ms) == (30_000, 8000)


def test_what_the_request_says_is_narrowest() -> None:
    platform = generation_pb2.Platform(
        connect_timeout_ms=700, first_token_timeout_ms=300, stall_timeout_ms=200
    )
    for has_next in (True, False):
        found = limits(MODEL, has_next=has_next, platform=platform)
        assert (found.connect_ms, found.first_token_ms, found.stall_ms) == (700, 300, 200)
    # Nothing of it is kept for the next request.
    patience = Patience(Limits(), MODEL)
    target = Target("p", "main", "m", listed=True)
    for asked, first in ((platform, 300), (generation_pb2.Platform(), 7000)):
        found = patience.of(target, Work(asked), has_next=False, left_ms=80_000)
        assert found.first_token_ms == first


def chat(*tools: generation_pb2.Tool, **fields: int) -> generation_pb2.Request:
    return generation_pb2.Request(
        generate=generation_pb2.GenerateRequest(model="m", tools=tools, **fields)  # type: ignore[arg-type]
    )


FUNCTION = generation_pb2.Tool(function=generation_pb2.FunctionTool(name="f"))
HOSTED = generation_pb2.Tool(hosted=generation_pb2.HostedTool(type="web_search"))
DRAWS = generation_pb2.Request(image=operations_pb2.ImageRequest(model="m"))


@pytest.mark.parametrize(
    ("asked", "stall_s", "whole_s"),
    [
        (chat(), 10, 90),
        (chat(FUNCTION), 60, 90),
        (chat(HOSTED), 60, 300),
        (chat(FUNCTION, max_tokens=8000), 60, 320),
        (chat(max_output_tokens=8000), 10, 320),
        (DRAWS, 10, 300),
    ],
)
async def test_the_engine_gives_an_attempt_the_limits_of_what_it_is_asked(
    asked: generation_pb2.Request, stall_s: int, whole_s: int
) -> None:
    story = Story(targets=(A, B), request=asked, timeout_s=LONG_S)
    story.begin()
    engine: Any = SimpleNamespace(_patience=Patience(Limits(), {}))
    found = Engine.limits(engine, story.exchange, story.attempt)
    assert (found.stall_ms, found.whole_ms) == (stall_s * 1000, whole_s * 1000)
    story.exchange.close()
