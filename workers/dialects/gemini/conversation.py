"""Turns the hub's messages into Gemini's system instruction and alternating contents."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.dialects.gemini.models import Family
from workers.dialects.gemini.names import ToolNames
from workers.dialects.gemini.parts import LOST_SIGNATURE, Part, Result, Writer
from workers.dialects.gemini.surroundings import Surroundings
from workers.toolids import ToolIds

_ROLES = {
    content_pb2.ROLE_UNSPECIFIED: "user",
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "system",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "model",
    # Results of functions are something the user says.
    content_pb2.ROLE_TOOL: "user",
}
# Ids come back as they went; what is refused is only what no JSON text should hold.
_NOT_IN_AN_ID = re.compile(r"[\x00-\x1f]")
_LONGEST_ID = 256


@dataclass(slots=True)
class _Turn:
    """What one side says without interruption; results are a content of their own."""

    role: str
    parts: list[Part] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


@dataclass(slots=True)
class Conversation:
    """`systemInstruction` and `contents` of the request."""

    system: list[Part]
    contents: list[dict[str, Any]]


def conversation(
    request: generation_pb2.GenerateRequest,
    family: Family,
    home: Surroundings,
    names: ToolNames,
) -> Conversation:
    """The whole conversation; `InferenceError` with the path of what Gemini cannot take."""
    writer = Writer(family, home, names, ToolIds(_NOT_IN_AN_ID, _LONGEST_ID))
    system = _texts(request.responses.instructions)
    turns: list[_Turn] = []
    for number, message in enumerate(request.messages):
        path = f"messages[{number}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise InferenceError("invalid_request", "Unknown role.", param=f"{path}.role")
        if role == "system":
            said = _system(message, path)
            if turns:
                # Only what leads is an instruction to Gemini; later words have to be somebody's.
                _turn(turns, "user").parts += [_tagged(part) for part in said]
            else:
                system += said
            continue
        parts, results = _message(writer, message, path)
        if parts or results:
            turn = _turn(turns, role)
            turn.parts += parts
            turn.results += results
        writer.flush()
    if system and (not turns or not family.system):
        # A lone instruction is a question too.
        _first_user_turn(turns).parts[:0] = system
        system = []
    if not turns:
        raise InferenceError(
            "invalid_request", "There is no message with content.", param="messages"
        )
    return Conversation(system, _contents(turns, family))


def _texts(text: str) -> list[Part]:
    return [{"text": text}] if text else []


def _system(message: content_pb2.Message, path: str) -> list[Part]:
    said: list[Part] = []
    for part in message.parts:
        if not part.HasField("text"):
            raise InferenceError(
                "invalid_request", "Gemini takes only text in system messages.", param=path
            )
        said += _texts(part.text.text)
    return said


def _tagged(part: Part) -> Part:
    return {"text": f"<system>\n{part['text']}\n</system>"}


def _message(
    writer: Writer, message: content_pb2.Message, path: str
) -> tuple[list[Part], list[Result]]:
    """The parts of a message, and the results of functions among them."""
    parts: list[Part] = []
    results: list[Result] = []
    for number, part in enumerate(message.parts):
        where = f"{path}.content[{number}]"
        if part.HasField("tool_result"):
            results.append(writer.result(part, path))
            parts += results[-1].beside
            continue
        written = writer.parts(part, where)
        if not written and part.HasField("opaque") and message.role == content_pb2.ROLE_USER:
            kind = part.opaque.type
            raise InferenceError(
                "invalid_request", f"Gemini has no content of type {kind!r}.", param=f"{where}.type"
            )
        parts += written
    if message.role == content_pb2.ROLE_USER and message.parts and not parts:
        # Saying nothing is a turn too, and taken as one.
        parts = [{"text": ""}]
    if message.name and message.role == content_pb2.ROLE_USER:
        # Gemini has no field for who of several users speaks.
        first = next((part for part in parts if "text" in part), None)
        if first is not None:
            first["text"] = f"{message.name}: {first['text']}"
    return parts, results


def _turn(turns: list[_Turn], role: str) -> _Turn:
    """The turn to add to: the last one if it is the same side's."""
    if not turns or turns[-1].role != role:
        turns.append(_Turn(role))
    return turns[-1]


def _first_user_turn(turns: list[_Turn]) -> _Turn:
    for turn in turns:
        if turn.role == "user":
            return turn
    turns.insert(0, _Turn("user"))
    return turns[0]


def _contents(turns: list[_Turn], family: Family) -> list[dict[str, Any]]:
    """Results come right after the calls they answer, in their order, and by themselves."""
    contents: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role == "model" and family.ids_and_signatures:
            # Of calls that were made together only the first one is signed.
            first = next((part for part in turn.parts if "functionCall" in part), {})
            if first:
                first.setdefault("thoughtSignature", LOST_SIGNATURE)
        if turn.results:
            results = sorted(turn.results, key=lambda result: result.number)
            contents.append({"role": "user", "parts": [result.part for result in results]})
        if turn.parts:
            contents.append({"role": turn.role, "parts": turn.parts})
    return contents
