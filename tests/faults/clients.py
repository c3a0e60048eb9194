"""Asks as plain clients of the two HTTP APIs do, and holds on to all that they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]
QUESTION = [{"role": "user", "content": "Say the words."}]


@dataclass
class Heard:
    """One answer as a client has it. `by` is the provider that gave it."""

    status: int = 0
    by: str = ""
    # What the answer itself says of its model.
    model: str = ""
    text: str = ""
    # What a tool is called with, in a stream of chat's.
    arguments: str = ""
    finish: str = ""
    # The API's own last word of a stream came: [DONE], or message_stop.
    done: bool = False
    error: Json | None = None
    usage: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)

    def strange(self) -> Iterator[str]:
        """What no client should ever see."""
        if self.error is not None:
            if self.done:
                yield "an error, and the end of a good answer"
            if not self.error.get("message") or not self.error.get("type"):
                yield f"an error without a type or a message: {self.error}"
            if self.finish:
                yield "an error behind a finish reason"
        else:
            if not self.done:
                yield "no error, and no end"
            if not self.finish:
                yield "a success without a finish reason"

    def __str__(self) -> str:
        return f"{self.status} by {self.by or '-'}: {self.text[-20:]!r} {self.finish} {self.error}"


async def chat(
    http: httpx.AsyncClient, model: str, *, stream: bool, models: list[str], **more: Any
) -> Heard:
    """POST /v1/chat/completions."""
    body: Json = {"model": model, "messages": QUESTION, "models": models, "stream": stream, **more}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return await _ask(http, "/v1/chat/completions", body, _chunk, _completion)


async def messages(
    http: httpx.AsyncClient, model: str, *, stream: bool, models: list[str]
) -> Heard:
    """POST /v1/messages."""
    body: Json = {"model": model, "messages": QUESTION, "models": models, "stream": stream}
    return await _ask(http, "/v1/messages", {**body, "max_tokens": 500}, _event, _message)


async def _ask(
    http: httpx.AsyncClient,
    path: str,
    body: Json,
    event: Callable[[Heard, Json], None],
    whole: Callable[[Heard, Json], None],
) -> Heard:
    heard = Heard()
    async with http.stream("POST", path, json=body) as response:
        heard.status = response.status_code
        heard.by = response.headers.get("x-millrace-provider", "")
        if response.is_error or not body["stream"]:
            answer = json.loads(await response.aread())
            if response.is_error:
                heard.error = answer["error"]
            else:
                whole(heard, answer)
                heard.done = True
            return heard
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                heard.done = True
            elif line.startswith("data: "):
                said = json.loads(line[6:])
                heard.events.append(said)
                event(heard, said)
    return heard


def _chunk(heard: Heard, said: Json) -> None:
    if "error" in said:
        heard.error = said["error"]
        return
    heard.model = said["model"]
    if usage := said.get("usage"):
        heard.usage = {"total": usage["total_tokens"]}
    for choice in said["choices"]:
        heard.text += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls") or ():
            heard.arguments += call["function"]["arguments"]
        heard.finish = choice["finish_reason"] or heard.finish


def _completion(heard: Heard, said: Json) -> None:
    (choice,) = said["choices"]
    heard.model = said["model"]
    heard.text = choice["message"]["content"]
    heard.finish = choice["finish_reason"] or ""
    heard.usage = {"total": said["usage"]["total_tokens"]}


def _event(heard: Heard, said: Json) -> None:
    match said["type"]:
        case "error":
            heard.error = said["error"]
        case "message_start":
            heard.model = said["message"]["model"]
        case "content_block_delta":
            heard.text += said["delta"]["text"]
        case "message_delta":
            heard.finish = said["delta"]["stop_reason"] or ""
            heard.usage = {"total": said["usage"]["output_tokens"]}
        case "message_stop":
            heard.done = True


def _message(heard: Heard, said: Json) -> None:
    heard.model = said["model"]
    heard.text = "".join(block["text"] for block in said["content"])
    heard.finish = said["stop_reason"] or ""
    heard.usage = {"total": said["usage"]["output_tokens"]}


Ask = Callable[..., Coroutine[Any, Any, Heard]]
ASK: dict[str, Ask] = {"chat": chat, "messages": messages}
