from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.workers.sim.raw import TOOL, USER, Sim, start


def test_a_model_without_knobs_answers_with_a_short_friendly_text(sim: Sim) -> None:
    for model in ("sim", "sim/sim", "gpt-4o-mini", "anything/else"):
        reply = sim.chat(model=model)
        assert reply.status == 200
        assert reply.text.startswith("Hello from sim")
        assert reply.json["model"] == model
        assert reply.json["choices"][0]["finish_reason"] == "stop"
        assert reply.headers["x-request-id"].startswith("req_sim")


def test_the_same_request_gets_the_same_text_streamed_or_not_and_another_prompt_another(
    sim: Sim,
) -> None:
    other = {"role": "user", "content": "tell me about the sky"}
    texts = [sim.chat(model="tokens=30").text for _ in range(3)]
    streamed = sim.chat(model="tokens=30", stream=True)
    assert {*texts, streamed.streamed()} == {texts[0]}
    assert len(texts[0].split()) == 30
    assert sim.chat(model="tokens=30", messages=[other]).text != texts[0]
    ids = {sim.chat(model="tokens=30").json["id"] for _ in range(3)}
    assert len(ids) == 3
    assert len({chunk["id"] for chunk in streamed.chunks}) == 1


def test_another_process_gives_the_same_text(sim: Sim) -> None:
    twin = start()
    try:
        assert twin.chat(model="tokens=30").text == sim.chat(model="tokens=30").text
    finally:
        twin.process.terminate()
        assert twin.process.wait(timeout=2) == 0
        assert twin.process.stdout is not None
        twin.process.stdout.close()


def test_a_stream_has_the_shape_that_openai_clients_depend_on(sim: Sim) -> None:
    reply = sim.chat(model="tokens=4", stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.datas[-1] == "[DONE]"
    first, *deltas, finish, usage = reply.chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [set(chunk["choices"][0]["delta"]) for chunk in deltas] == [{"content"}] * 4
    assert finish["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert all(chunk["usage"] is None for chunk in reply.chunks[:-1])
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4


def test_usage_comes_in_a_stream_only_when_asked_for(sim: Sim) -> None:
    assert all("usage" not in chunk for chunk in sim.chat(stream=True).chunks)


def test_usage_follows_the_documented_rule(sim: Sim) -> None:
    messages = [
        {"role": "system", "content": "abcdefgh"},  # 4 + 2
        {"role": "user", "content": [{"type": "text", "text": "abcde"}]},  # 4 + 2
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},  # 4 + 85
    ]
    usage = sim.chat(model="tokens=7,reasoning=3", messages=messages, n=2).json["usage"]
    assert usage["prompt_tokens"] == 101
    assert usage["completion_tokens"] == 2 * (7 + 3)
    assert usage["total_tokens"] == 121
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 6


def test_usage_can_be_missing(sim: Sim) -> None:
    assert "usage" not in sim.chat(model="no_usage").json
    reply = sim.chat(model="no_usage", stream=True, stream_options={"include_usage": True})
    assert all("usage" not in chunk for chunk in reply.chunks)


def test_echo_answers_with_the_last_user_message(sim: Sim) -> None:
    text = 'one  "two"\n\u00fc \x00\x01 three '
    messages = [{"role": "user", "content": "first"}, {"role": "user", "content": text}]
    for model in ("echo", "sim/echo", "sim-echo", "sim,echo", "echo=true"):
        assert sim.chat(model=model, messages=messages).text == text
        assert sim.chat(model=model, messages=messages, stream=True).streamed() == text


def test_vary_changes_the_text_of_every_call(sim: Sim) -> None:
    assert len({sim.chat(model="tokens=20,vary").text for _ in range(3)}) == 3


def test_the_body_wins_over_the_model_name(sim: Sim) -> None:
    assert (
        len(sim.chat(model="tokens=3,echo=1", sim={"tokens": 9, "echo": False}).text.split()) == 9
    )


def test_max_tokens_ends_the_answer_with_length(sim: Sim) -> None:
    whole = sim.chat(model="tokens=10").text
    for name in ("max_tokens", "max_completion_tokens"):
        reply = sim.chat(model="tokens=10", **{name: 4})
        assert whole.startswith(reply.text)
        assert reply.json["usage"]["completion_tokens"] == len(reply.text.split()) == 4
        assert reply.json["choices"][0]["finish_reason"] == "length"
    assert sim.chat(model="tokens=10", max_tokens=10).json["choices"][0]["finish_reason"] == "stop"
    spent = sim.chat(model="tokens=10,reasoning=6", max_tokens=4).json
    assert spent["choices"][0]["message"]["content"] == ""
    assert spent["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


def test_stop_ends_the_answer_before_the_stop_text(sim: Sim) -> None:
    words = sim.chat(model="tokens=10").text.split()
    reply = sim.chat(model="tokens=10", stop=["never there", words[5], words[7]])
    assert reply.text == " ".join(words[:5]) + " "
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    assert sim.chat(model="tokens=10", stop=words[5], stream=True).streamed() == reply.text


def test_n_choices_differ_and_take_turns_in_a_stream(sim: Sim) -> None:
    choices = sim.chat(model="tokens=5", n=3).json["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in choices}) == 3
    reply = sim.chat(model="tokens=5", n=3, stream=True)
    for choice in choices:
        assert reply.streamed(index=choice["index"]) == choice["message"]["content"]
    assert reply.finish_reasons == ["stop"] * 3


def test_logprobs_cover_every_token(sim: Sim) -> None:
    reply = sim.chat(model="tokens=5", logprobs=True, top_logprobs=2)
    content = reply.json["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == reply.text
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * 5
    chunks = sim.chat(model="tokens=5", logprobs=True, stream=True).chunks
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert sum(len(entry["content"]) for entry in streamed if entry) == 5


def test_reasoning_comes_before_the_text(sim: Sim) -> None:
    message = sim.chat(model="tokens=3,reasoning=5").json["choices"][0]["message"]
    assert len(message["reasoning_content"].split()) == 5
    reply = sim.chat(model="tokens=3,reasoning=5", stream=True)
    assert reply.streamed("reasoning_content") == message["reasoning_content"]
    assert reply.streamed() == message["content"]
    kinds = [next(iter(chunk["choices"][0]["delta"]), "") for chunk in reply.chunks[1:-1]]
    assert kinds == ["reasoning_content"] * 5 + ["content"] * 3


def test_tool_calls_fit_the_schema_and_are_the_same_streamed_or_not(sim: Sim) -> None:
    choice = sim.chat(model="tool_call=2", tools=[TOOL]).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["look_up", "look_up"]
    assert len({call["id"] for call in calls}) == 2
    arguments = json.loads(calls[0]["function"]["arguments"])
    assert isinstance(arguments["place"], str)
    assert arguments["unit"] in ("c", "f")
    assert isinstance(arguments["days"][0], int)
    reply = sim.chat(model="tool_call=2", tools=[TOOL], stream=True)
    seen: dict[int, dict[str, str]] = {}
    for chunk in reply.chunks:
        for delta in chunk["choices"][0]["delta"].get("tool_calls", ()):
            call = seen.setdefault(delta["index"], {"id": delta.get("id"), "arguments": ""})
            call["arguments"] += delta["function"]["arguments"]
    assert list(seen.values()) == [
        {"id": call["id"], "arguments": call["function"]["arguments"]} for call in calls
    ]
    assert reply.finish_reasons == ["tool_calls"]


def test_finish_names_the_reason(sim: Sim) -> None:
    assert sim.chat(model="finish=content_filter", stream=True).finish_reasons == ["content_filter"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "size"), [("bytes=1000", 1000), ("bytes=3000000,tokens=2", 3000000)]
)
def test_bytes_sets_the_size_of_the_text(sim: Sim, model: str, size: int, stream: bool) -> None:
    reply = sim.chat(model=model, stream=stream)
    text = reply.streamed() if stream else reply.text
    assert len(text.encode()) == size


# Time.


def test_ttft_and_delay_pace_a_stream(sim: Sim) -> None:
    reply = sim.chat(model="tokens=6,ttft_ms=100,delay_ms=30", stream=True)
    assert 0.095 <= reply.first_byte < 2
    assert 0.245 <= reply.seconds < 5
    assert reply.reads >= 6


def test_an_answer_that_is_not_streamed_takes_as_long(sim: Sim) -> None:
    assert 0.245 <= sim.chat(model="tokens=6,ttft_ms=100,delay_ms=30").seconds < 5


def test_chunk_sets_the_tokens_per_event_and_keeps_the_pace(sim: Sim) -> None:
    reply = sim.chat(model="tokens=10,chunk=4,delay_ms=20", stream=True)
    sizes = [len(chunk["choices"][0]["delta"]["content"].split()) for chunk in reply.chunks[1:-1]]
    assert sizes == [4, 4, 2]
    assert 0.155 <= reply.seconds < 5


def test_burst_is_one_write_with_the_same_events(sim: Sim) -> None:
    reply = sim.chat(model="tokens=20,burst,delay_ms=50", stream=True)
    assert reply.reads == 1
    assert len(reply.chunks) == 22
    assert reply.streamed() == sim.chat(model="tokens=20").text


# The official SDK reads it.


async def test_the_openai_sdk_reads_its_answers(sim: Sim) -> None:
    async with openai.AsyncOpenAI(base_url=sim.base_url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tokens=12", "messages": [USER]}
        tool: Any = TOOL
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        called = await client.chat.completions.create(
            **{**asked, "model": "tool_call"}, tools=[tool]
        )
        calls = called.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].to_dict()["type"] == "function"
        assert [model.id async for model in client.models.list()] == ["sim", "echo"]
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**{**asked, "model": "status=429,retry_after=3"})
        assert caught.value.response.headers["retry-after"] == "3"
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**{**asked, "model": "fault=reset"})
        with pytest.raises(openai.APIError, match="simulated error"):
            broken = await client.chat.completions.create(
                **{**asked, "model": "fault=error_event"}, stream=True
            )
            _ = [chunk async for chunk in broken]
