"""Turns the messages of the hub into chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.v1 import content_pb2, generation_pb2
from workers.dialects.openai_chat.callids import CallIds
from workers.dialects.openai_chat.parts import ISSUER, as_content, as_parts, written_parts
from workers.fragments import fragment, merge
from workers.parameters import Action, Row

_Chat = dict[str, Any]

_ROLES = {
    content_pb2.ROLE_UNSPECIFIED: "user",
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "developer",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
    content_pb2.ROLE_TOOL: "user",  # what is not a tool result in a tool turn
}


def chat_messages(
    generate: generation_pb2.GenerateRequest, rows: Mapping[str, Row], quirks: Mapping[str, str]
) -> list[_Chat]:
    """All messages in order; the instructions of a Responses request come first."""
    writer = _Writer(rows, quirks)
    if generate.responses.HasField("instructions"):
        writer.messages.append({"role": "system", "content": generate.responses.instructions})
    for index, message in enumerate(generate.messages):
        writer.write(message, f"messages[{index}]")
    writer.flush()
    messages = writer.messages
    if quirks.get("system_messages") == "one":
        messages = _with_one_system_message(messages)
    if quirks.get("turns") == "alternate":
        messages = _in_turns(messages)
    return messages


def instruct(messages: list[_Chat], told: str) -> None:
    """Adds an instruction to the system message, which is made if there is none."""
    if not messages or messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": told})
        return
    first = dict(messages[0])
    first["content"] = as_content(_joined(as_parts(first["content"]), as_parts(told)))
    messages[0] = first


class _Writer:
    """Writes message by message, and keeps back what may not stand between two tool results."""

    def __init__(self, rows: Mapping[str, Row], quirks: Mapping[str, str]) -> None:
        self.messages: list[_Chat] = []
        self._quirks = quirks
        self._developer = _word(rows, "role=developer", "developer")
        self._legacy_results = _word(rows, "role=function", "function") == "function"
        row = rows.get("message_name")
        self._name_in_text = row is not None and row.action is Action.EMULATE
        # Fields that only OpenAI's assistant messages have are an error with others.
        self._plain = quirks.get("assistant_fields") == "plain"
        self._reasoning_field = quirks.get("reasoning_field", "")
        self._ids = CallIds(short=quirks.get("call_ids") == "nine characters")
        self._media: list[_Chat] = []

    def write(self, message: content_pb2.Message, where: str) -> None:
        rest: list[content_pb2.Part] = []
        for part in message.parts:
            if part.WhichOneof("kind") == "tool_result":
                self.messages.append(self._tool_result(part.tool_result, message, where))
            else:
                rest.append(part)
        if not rest and message.parts:
            return
        self.flush()
        if message.role == content_pb2.ROLE_ASSISTANT:
            written = self._assistant(rest, where)
        else:
            role = _ROLES.get(message.role, "user")
            content = self._parts(rest, where)
            if self._name_in_text and message.HasField("name") and role == "user":
                content = _joined([{"type": "text", "text": f"{message.name}: "}], content, "")
            role = self._developer if role == "developer" else role
            written = {"role": role, "content": as_content(content)}
        if message.HasField("name") and not self._name_in_text:
            written["name"] = message.name
        if message.continued:
            written["prefix"] = True
        self.messages.append(merge(written, message.extra, where + "."))

    def flush(self) -> None:
        """Media of tool results follow in a user message: chat takes text alone in a result."""
        if self._media:
            self.messages.append({"role": "user", "content": self._media})
            self._media = []

    def _tool_result(
        self, result: content_pb2.ToolResult, message: content_pb2.Message, where: str
    ) -> _Chat:
        text = [part for part in result.parts if part.HasField("text")]
        other = [part for part in result.parts if not part.HasField("text")]
        if other:
            self._media += self._parts(other, where)
        content = as_content(self._parts(text, where))
        if result.legacy_function and self._legacy_results:
            written = {"role": "function", "name": result.name, "content": content}
        else:
            written = {
                "role": "tool",
                "tool_call_id": self._ids.for_result(result),
                "content": content,
            }
            if result.name and not self._name_in_text:
                written["name"] = result.name
        # A message of several results has no single owner of its extra fields.
        return merge(written, message.extra, where + ".") if len(message.parts) == 1 else written

    def _assistant(self, parts: Iterable[content_pb2.Part], where: str) -> _Chat:
        said: list[content_pb2.Part] = []
        calls: list[_Chat] = []
        thought: list[content_pb2.Reasoning] = []
        written: _Chat = {"role": "assistant", "content": None}
        for part in parts:
            kind = part.WhichOneof("kind")
            if kind == "tool_call":
                if part.tool_call.legacy_function and self._legacy_results:
                    written["function_call"] = _function(part.tool_call)
                else:
                    call = self._tool_call(part.tool_call)
                    calls.append(merge(call, part.extra, where + "."))
            elif kind == "reasoning":
                thought.append(part.reasoning)
            elif kind == "refusal" and not self._plain:
                written["refusal"] = written.get("refusal", "") + part.refusal.text
            elif kind == "refusal":
                said.append(content_pb2.Part(text=content_pb2.Text(text=part.refusal.text)))
            elif kind == "audio" and part.audio.HasField("id"):
                if self._plain:
                    text = content_pb2.Text(text=part.audio.transcript)
                    said.append(content_pb2.Part(text=text))
                else:
                    written["audio"] = {"id": part.audio.id}
            else:
                said.append(part)
                if part.text.annotations and not self._plain:
                    written["annotations"] = fragment(part.text.annotations, f"{where}.annotations")
        if calls:
            written["tool_calls"] = calls
        # Only a call, a refusal or an audio answer may stand without content.
        if said or not written.keys() & {"tool_calls", "function_call", "refusal", "audio"}:
            written["content"] = as_content(self._parts(said, where))
        self._write_thoughts(written, thought)
        if written["content"] is None and self._plain:
            written["content"] = ""
        return written

    def _write_thoughts(self, written: _Chat, thought: list[content_pb2.Reasoning]) -> None:
        """Reasoning goes back the way that the provider asks for; OpenAI refuses it."""
        text = "".join(reasoning.text for reasoning in thought)
        if self._reasoning_field == "reasoning_details":
            blobs = [
                fragment(blob.data, "reasoning_details")
                for reasoning in thought
                for blob in reasoning.blobs
                if blob.issuer == ISSUER and blob.kind == "reasoning_details"
            ]
            if blobs:
                written["reasoning_details"] = blobs
            elif text:
                written["reasoning"] = text
        elif self._reasoning_field == "content" and text:
            block = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
            written["content"] = [block, *as_parts(written["content"])]
        elif self._reasoning_field and text:
            written[self._reasoning_field] = text

    def _parts(self, parts: Iterable[content_pb2.Part], where: str) -> list[_Chat]:
        return written_parts(parts, where, self._quirks)

    def _tool_call(self, call: content_pb2.ToolCall) -> _Chat:
        call_id = self._ids.for_call(call)
        if call.kind == content_pb2.TOOL_KIND_CUSTOM:
            custom = {"name": call.name, "input": call.arguments.decode("utf-8", "replace")}
            return {"id": call_id, "type": "custom", "custom": custom}
        return {"id": call_id, "type": "function", "function": _function(call)}


def _function(call: content_pb2.ToolCall) -> _Chat:
    return {"name": call.name, "arguments": call.arguments.decode("utf-8", "replace")}


def _word(rows: Mapping[str, Row], parameter: str, word: str) -> str:
    row = rows.get(parameter)
    return (row.words or {}).get(word, word) if row is not None else word


def _joined(first: list[_Chat], second: list[_Chat], between: str = "\n\n") -> list[_Chat]:
    """Parts behind parts; where text meets text they become one."""
    if not (first and second):
        return first + second
    end, begin = first[-1], second[0]
    if not end.keys() == begin.keys() == {"type", "text"}:
        return first + second
    text = {"type": "text", "text": f"{end['text']}{between}{begin['text']}"}
    return [*first[:-1], text, *second[1:]]


def _with_one_system_message(messages: list[_Chat]) -> list[_Chat]:
    """Some chat templates take a single system message, and only at the beginning."""
    system = [message for message in messages if message["role"] == "system"]
    if not system or (len(system) == 1 and messages[0] is system[0]):
        return messages
    content: list[_Chat] = []
    for message in system:
        content = _joined(content, as_parts(message["content"]))
    rest = [message for message in messages if message["role"] != "system"]
    return [{**system[0], "content": as_content(content)}, *rest]


def _in_turns(messages: list[_Chat]) -> list[_Chat]:
    """Joins neighbours of one speaker: some servers want user and assistant to take turns."""
    turns: list[_Chat] = []
    for message in messages:
        last = turns[-1] if turns else None
        plain = {"role", "content"}
        if last and last["role"] == message["role"] and plain == last.keys() == message.keys():
            joined = _joined(as_parts(last["content"]), as_parts(message["content"]))
            turns[-1] = {"role": message["role"], "content": as_content(joined)}
        else:
            turns.append(message)
    return turns
