"""Turns hub content parts into Gemini's parts, one kind at a time.

A thought signature belongs to one part of the answer that it came with. The hub keeps it as the
state of the reasoning before that part; its kind says what the part was, so that it finds back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2
from workers.dialects.gemini import media
from workers.dialects.gemini.models import Family
from workers.dialects.gemini.names import ToolNames
from workers.dialects.gemini.surroundings import Surroundings
from workers.standins import arguments_object, read_json
from workers.toolids import ToolIds

Part = dict[str, Any]

# Kinds of blobs: what carried the signature. Text of no characters is a part as well.
CALL, TEXT, EMPTY_TEXT, MEDIA = "function_call", "text", "empty_text", "inline_data"
# Accepted where the signature of a call is lost, as it is for calls of another provider.
# See https://ai.google.dev/gemini-api/docs/thought-signatures.
LOST_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
# Google's own OpenAI format carries signatures so.
_GOOGLES_PLACE = "extra_content"
_PART_FIELDS = ("videoMetadata", "video_metadata", "mediaResolution", "media_resolution")


@dataclass(frozen=True, slots=True)
class Result:
    """What a function returned; `number` is that of its call in the conversation."""

    number: int
    part: Part
    # Media for which a functionResponse has no place.
    beside: list[Part]


@dataclass(slots=True)
class Writer:
    """Writes the parts of one conversation."""

    family: Family
    home: Surroundings
    names: ToolNames
    ids: ToolIds
    # The name that each call has on the wire and its number, by the caller's id of it.
    _called: dict[str, tuple[str, int]] = field(default_factory=dict)
    _calls: int = 0
    # Signatures that wait for the part they belong to, by kind.
    _signatures: dict[str, str] = field(default_factory=dict)

    def parts(self, part: content_pb2.Part, path: str) -> list[Part]:
        """The parts for one of the hub, at `path` of the request; none for what says nothing."""
        kind = part.WhichOneof("kind")
        write = _WRITERS.get(kind) if kind is not None else None
        return write(self, part, path) if write is not None else []

    def result(self, part: content_pb2.Part, path: str) -> Result:
        """The result of a tool, which names the function that the call named."""
        result = part.tool_result
        name, number = self._called.get(result.call_id or result.name, ("", self._calls))
        name = name or self.names.wire(result.name)
        if not name:
            message = f"No earlier message calls a tool with the id {result.call_id!r}."
            raise InferenceError("invalid_request", message, param=f"{path}.tool_call_id")
        said = "".join(piece.text.text or piece.refusal.text for piece in result.parts)
        shown = [
            written
            for index, piece in enumerate(result.parts)
            if not (piece.HasField("text") or piece.HasField("refusal"))
            for written in self.parts(piece, f"{path}.content[{index}]")
        ]
        answered: Part = {"name": name, "response": _response(said, is_error=result.is_error)}
        if self.family.ids_and_signatures:
            answered["id"] = self.ids.for_result(result)
        if self.family.combines and shown:
            answered["parts"] = shown
            shown = []
        return Result(number, {"functionResponse": answered}, shown)

    def flush(self) -> None:
        """The message is over: what waits belongs to nothing that came back."""
        self._signatures.clear()

    def _signed(self, part: Part, kind: str) -> Part:
        if signature := self._signatures.pop(kind, None):
            part["thoughtSignature"] = signature
        return part

    def _text(self, part: content_pb2.Part, path: str) -> list[Part]:
        text = part.text.text or part.refusal.text
        return [self._signed({"text": text}, TEXT)] if text else []

    def _image(self, part: content_pb2.Part, path: str) -> list[Part]:
        written = media.image(part.image, path, self.home)
        return [self._signed(written | _own_fields(part, path), MEDIA)]

    def _audio(self, part: content_pb2.Part, path: str) -> list[Part]:
        if part.audio.WhichOneof("source") == "inline":
            return [media.audio(part.audio)]
        return [{"text": part.audio.transcript}] if part.audio.transcript else []

    def _file(self, part: content_pb2.Part, path: str) -> list[Part]:
        return [media.file(part.file, path, self.home) | _own_fields(part, path)]

    def _tool_call(self, part: content_pb2.Part, path: str) -> list[Part]:
        call = part.tool_call
        name = self.names.wire(call.name)
        self._called[call.call_id or call.name] = (name, self._calls)
        self._calls += 1
        written: Part = {"name": name, "args": arguments_object(call)}
        if self.family.ids_and_signatures:
            written["id"] = self.ids.for_call(call)
        signed = self._signed({"functionCall": written}, CALL)
        if "thoughtSignature" not in signed and (carried := _carried_by_google(part, path)):
            signed["thoughtSignature"] = carried
        return [signed]

    def _reasoning(self, part: content_pb2.Part, path: str) -> list[Part]:
        """Thoughts are not sent back: their signature says it all."""
        written: list[Part] = []
        for blob in part.reasoning.blobs:
            if blob.issuer != self.home.issuer:
                continue
            signature = blob.data.decode(errors="replace")
            if blob.kind == EMPTY_TEXT:
                written.append({"text": "", "thoughtSignature": signature})
            else:
                self._signatures[blob.kind] = signature
        return written

    def _opaque(self, part: content_pb2.Part, path: str) -> list[Part]:
        """A part of Gemini's own, and the one of the chat format that only Gemini takes."""
        opaque = part.opaque
        if opaque.issuer == self.home.issuer:
            return [read_json(opaque.json, path)]
        if opaque.type == "video_url":
            owner = read_json(opaque.json, path).get("video_url")
            url = owner.get("url") if isinstance(owner, dict) else owner
            video = content_pb2.File(url=str(url), filename="video.mp4")
            return [media.file(video, f"{path}.video_url.url", self.home)]
        return []


_WRITERS: dict[str, Callable[[Writer, content_pb2.Part, str], list[Part]]] = {
    "text": Writer._text,
    "image": Writer._image,
    "audio": Writer._audio,
    "file": Writer._file,
    "tool_call": Writer._tool_call,
    "reasoning": Writer._reasoning,
    "refusal": Writer._text,
    "opaque": Writer._opaque,
}


def _own_fields(part: content_pb2.Part, path: str) -> Part:
    """Fields that Gemini's parts have and the hub does not type."""
    extra = part.extra
    return {
        name: read_json(extra[name], f"{path}.{name}") for name in _PART_FIELDS if name in extra
    }


def _carried_by_google(part: content_pb2.Part, path: str) -> str:
    if _GOOGLES_PLACE not in part.extra:
        return ""
    found = read_json(part.extra[_GOOGLES_PLACE], f"{path}.{_GOOGLES_PLACE}")
    owner = found.get("google") if isinstance(found, dict) else None
    signature = owner.get("thought_signature") if isinstance(owner, dict) else None
    return signature if isinstance(signature, str) else ""


def _response(said: str, *, is_error: bool) -> Part:
    """What a tool returned as the object that is required; an object is one already.

    The API itself reads `output` and `error` so, and an object without them as the output.
    """
    value: Any = said
    if said.lstrip()[:1] in ("{", "["):
        try:
            value = orjson.loads(said)
        except orjson.JSONDecodeError:
            value = said
    if is_error:
        return {"error": value}
    return value if isinstance(value, dict) else {"output": value}
