"""What an answer carries in `reasoning_details` comes back whole on the next turn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from broker.answer import Fold
from broker.translate.chat_answer import ChatAnswer, ChatStream
from broker.translate.chat_request import parse_chat
from broker.v1 import content_pb2, event_pb2, generation_pb2, inference_service_pb2

Event = event_pb2.Event


def started() -> Event:
    return Event(started=event_pb2.Started(model="claude"))


def text(item: int, words: str) -> Event:
    return Event(text=event_pb2.TextDelta(item=item, text=words))


def thought(item: int, words: str, *, summary: bool = False, part: int = 0) -> Event:
    delta = event_pb2.ReasoningDelta(item=item, text=words, summary=summary, part=part)
    return Event(reasoning=delta)


def blob(item: int, kind: str, data: bytes) -> Event:
    held = content_pb2.Blob(issuer="anthropic_messages", kind=kind, data=data)
    return Event(blob=event_pb2.BlobEvent(item=item, blob=held))


def call(item: int, index: int, name: str = "f") -> Event:
    delta = event_pb2.ToolCallDelta(
        item=item,
        index=index,
        call_id=f"call_{index}",
        name=name,
        arguments="{}",
        kind=content_pb2.TOOL_KIND_FUNCTION,
    )
    return Event(tool_call=delta)


def hosted(item: int, data: bytes) -> Event:
    opaque = content_pb2.Opaque(type="server_tool_use", json=data, issuer="anthropic_messages")
    return Event(opaque=event_pb2.OpaqueEvent(item=item, opaque=opaque))


def finished() -> list[Event]:
    end = event_pb2.ChoiceFinished(reason=event_pb2.FINISH_REASON_STOP)
    return [Event(choice_finished=end), Event(completed=event_pb2.Completed())]


def hub_parts(events: list[Event]) -> list[content_pb2.Part]:
    fold = Fold()
    fold.feed(events)
    answer: inference_service_pb2.Answer = fold.answer("chatcmpl-1", 5)
    return list(answer.choices[0].message.parts)


def unary_message(events: list[Event]) -> dict[str, Any]:
    answer = ChatAnswer("chatcmpl-1", 5, generation_pb2.Request())
    answer.feed(events)
    message: dict[str, Any] = json.loads(answer.render())["choices"][0]["message"]
    return message


def streamed_message(events: list[Event]) -> dict[str, Any]:
    """What a client that adds deltas up ends with."""
    stream = ChatStream("chatcmpl-1", 5)
    data = b"".join(stream.feed([event]) for event in events) + stream.finish()
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for line in data.decode().split("\n\n"):
        if not line or line == "data: [DONE]":
            continue
        delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
        for name in ("content", "reasoning_content", "reasoning_details"):
            if delta.get(name):
                message[name] = (message.get(name) or delta[name][:0]) + delta[name]
        for piece in delta.get("tool_calls", ()):
            message.setdefault("tool_calls", []).append(
                {name: value for name, value in piece.items() if name != "index"}
            )
    return message


def sent_back(message: dict[str, Any]) -> list[content_pb2.Part]:
    question = {"role": "user", "content": "x"}
    body = {"model": "m", "messages": [question, message, question]}
    return list(parse_chat(json.dumps(body).encode()).generate.messages[1].parts)


ANSWERS: dict[str, list[Event]] = {
    "a signature": [
        thought(0, "hm, "),
        thought(0, "yes"),
        blob(0, "signature", b"sig=="),
        text(1, "Hi"),
    ],
    "a signature without text": [blob(0, "signature", b"sig=="), text(1, "Hi")],
    "redacted thinking": [blob(0, "redacted_thinking", b"\x00\xffbytes"), text(1, "Hi")],
    "several blocks in a row": [
        thought(0, "one"),
        blob(0, "signature", b"1"),
        blob(1, "redacted_thinking", b"2"),
        thought(2, "three"),
        blob(2, "signature", b"3"),
        text(3, "Hi"),
    ],
    "thinking between texts": [
        thought(0, "one"),
        blob(0, "signature", b"1"),
        text(1, "Grüße 👋 "),
        thought(2, "two"),
        blob(2, "signature", b"2"),
        text(3, "again"),
    ],
    "thinking between tool calls": [
        thought(0, "one"),
        blob(0, "signature", b"1"),
        text(1, "I look"),
        call(2, 0),
        thought(3, "two"),
        blob(3, "signature", b"2"),
        call(4, 1),
    ],
    "thinking after everything": [
        text(0, "Hi"),
        call(1, 0),
        thought(2, "late"),
        blob(2, "signature", b"1"),
    ],
    "a signature of a tool call": [
        call(0, 0),
        call(1, 1),
        blob(1, "thought_signature", b"of the second"),
    ],
    "summaries with encrypted reasoning": [
        thought(0, "first ", summary=True),
        thought(0, "part", summary=True),
        thought(0, "second", summary=True, part=1),
        blob(0, "encrypted_content", b"gAAAA"),
        text(1, "Hi"),
    ],
    "blocks with and without state": [
        thought(0, "bare"),
        thought(1, "signed"),
        blob(1, "signature", b"1"),
        text(2, "Hi"),
    ],
    "a hosted tool between texts": [
        text(0, "Let me look. "),
        hosted(1, b'{"id":"srvtoolu_1"}'),
        text(2, "Found."),
    ],
    "plain reasoning": [thought(0, "hm"), text(1, "Hi")],
    "no reasoning": [text(0, "Hi"), call(1, 0)],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_sent_back_has_the_parts_it_was_made_of(name: str) -> None:
    events = [started(), *ANSWERS[name], *finished()]
    parts = hub_parts(events)
    assert len(parts) > 0
    assert sent_back(unary_message(events)) == parts
    assert sent_back(streamed_message(events)) == parts


def test_clients_that_hold_the_message_in_the_sdks_type_send_it_back_whole() -> None:
    events = [started(), *ANSWERS["thinking between tool calls"], *finished()]
    message = ChatCompletionMessage.model_validate(unary_message(events))
    assert sent_back(message.model_dump(exclude_none=True)) == hub_parts(events)


def test_reasoning_that_needs_no_state_is_plain_text_only() -> None:
    for message in (unary_message, streamed_message):
        shown = message([started(), *ANSWERS["plain reasoning"], *finished()])
        assert shown["reasoning_content"] == "hm"
        assert "reasoning_details" not in shown


def test_the_list_says_where_reasoning_stood() -> None:
    events = [started(), *ANSWERS["thinking between tool calls"], *finished()]
    assert unary_message(events)["reasoning_details"] == [
        {
            "type": "reasoning",
            "text": "one",
            "blobs": [{"issuer": "anthropic_messages", "kind": "signature", "data": "MQ=="}],
        },
        {
            "type": "reasoning",
            "text": "two",
            "blobs": [{"issuer": "anthropic_messages", "kind": "signature", "data": "Mg=="}],
            "after_text": 6,
            "after_tool_calls": 1,
        },
    ]


def test_positions_beyond_an_edited_message_put_reasoning_at_its_end() -> None:
    message = unary_message([started(), *ANSWERS["thinking between tool calls"], *finished()])
    message["content"], message["tool_calls"] = "I", message["tool_calls"][:0]
    kinds = [part.WhichOneof("kind") for part in sent_back(message)]
    assert kinds == ["reasoning", "text", "reasoning"]


@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(["text", "thought", "call"]), st.text(min_size=1, max_size=6)),
        min_size=1,
        max_size=8,
    )
)
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_any_order_of_text_and_signed_thoughts_before_calls_survives(
    blocks: list[tuple[str, str]],
) -> None:
    events, calls, last = [started()], 0, ""
    for item, (kind, words) in enumerate(blocks):
        if kind == "call":
            events.append(call(item, calls))
            calls += 1
        elif kind == "thought":
            events += [thought(item, words), blob(item, "signature", words.encode())]
        elif not calls and last != "text":
            # OpenAI's message has one text, before all calls.
            events.append(text(item, words))
        else:
            continue
        last = kind
    events += finished()
    parts = hub_parts(events)
    assert sent_back(unary_message(events)) == parts
    assert sent_back(streamed_message(events)) == parts
