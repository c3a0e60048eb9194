"""A cut answer of a caller who asked for prefill: continued, and verified where that fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.routing import Target
from broker.v1 import content_pb2, generation_pb2
from edge import exchange as exchange_module
from tests.edge.story import DONE, STOP, A, B, Story, failed, started, text, texts, until

SHOWN = "The quick brown fox jumps "
PREFILLS = replace(A, prefill=True)


def asked(
    resume: generation_pb2.Resume.ValueType = generation_pb2.RESUME_PREFILL,
) -> generation_pb2.Request:
    request = generation_pb2.Request(platform=generation_pb2.Platform(resume=resume))
    request.generate.model = "m"
    request.generate.stream = True
    request.generate.messages.add(role=content_pb2.ROLE_USER).parts.add().text.text = "go"
    return request


async def cut(story: Story) -> None:
    """The first attempt breaks off after the caller has read something; another one runs."""
    story.begin()
    story.say(started(), text(SHOWN))
    assert texts(await story.read()) == SHOWN
    story.say(failed("upstream_incomplete"))
    story.run()


def continues(story: Story) -> bool:
    """Whether the present attempt is asked to continue what was shown."""
    sent = generation_pb2.Request.FromString(story.exchange.raw).generate.messages
    return sent[-1].continued


async def test_the_answer_goes_on_behind_what_was_shown_and_is_charged_once() -> None:
    story = Story(targets=(PREFILLS,), request=asked())
    await cut(story)
    assert continues(story)
    story.say(started("again"), text(" over"), text(" it"), STOP, DONE)
    assert texts(await story.read()) == "over it"
    [(number, usage)] = story.host.charges
    assert (number, usage.input_tokens, usage.output_tokens, usage.estimated) == (2, 0, 5, True)
    assert story.exchange.route == "continued by prefill"


@pytest.mark.parametrize(
    ("target", "resume"),
    [(A, generation_pb2.RESUME_PREFILL), (PREFILLS, generation_pb2.RESUME_UNSPECIFIED)],
    ids=["the provider cannot", "the caller did not ask"],
)
async def test_else_the_answer_is_run_again_and_compared(
    target: Target, resume: generation_pb2.Resume.ValueType
) -> None:
    story = Story(targets=(target,), request=asked(resume))
    await cut(story)
    assert not continues(story)
    story.say(started(), text(SHOWN + "over it"), STOP, DONE)
    assert texts(await story.read()) == "over it"
    assert story.exchange.route == ""


async def test_a_refused_prefill_is_never_shown_and_the_answer_is_verified() -> None:
    story = Story(targets=(PREFILLS,), request=asked())
    await cut(story)
    story.say(failed("invalid_request", upstream_status=400))
    assert len(story.host.published) == 3
    assert not continues(story)
    story.run()
    story.say(started(), text(SHOWN + "over it"), STOP, DONE)
    assert texts(await story.read()) == "over it"
    assert [number for number, _ in story.host.charges] == [3]


async def test_what_fails_then_is_told_and_says_nothing_of_the_prefill() -> None:
    story = Story(targets=(PREFILLS,), request=asked())
    await cut(story)
    story.say(failed("invalid_request", upstream_status=400))
    story.run()
    story.say(started(), text("Something else entirely"))
    assert (await story.told()).reason == "worker_lost"
    assert len(story.host.published) == 3


async def test_a_continuation_that_is_cut_is_continued() -> None:
    story = Story(targets=(PREFILLS,), request=asked())
    await cut(story)
    story.say(started(), text("over the lazy "))
    assert texts(await story.read()) == "over the lazy "
    story.exchange.lost(story.attempt)
    await until(lambda: len(story.host.published) == 3)
    story.run()
    sent = generation_pb2.Request.FromString(story.exchange.raw).generate.messages
    assert [message.parts[0].text.text for message in sent] == ["go", SHOWN + "over the lazy"]
    story.say(started(), text("dog"), STOP, DONE)
    assert texts(await story.read()) == "dog"


async def test_a_prefill_that_waits_in_its_queue_is_handed_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.02)
    story = Story(targets=(PREFILLS, B), request=asked())
    await cut(story)
    story.exchange.handed_back(story.attempt)
    await asyncio.sleep(0.06)
    assert {attempt.target.provider for attempt in story.host.published} == {"a"}
    assert continues(story)
