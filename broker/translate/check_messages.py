"""Checks the typed messages of a hub request, with the paths that the same mistakes have in JSON.

The hub keeps what a message is made of in one list of parts; in a chat body text and media stand
in `content`, tool calls in `tool_calls` and reasoning in `reasoning_details`, each counted by
itself. A path says where the part would stand there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from broker.translate.json_bytes import read_array, read_json, read_object, read_text
from broker.translate.media import is_address, is_data_url, read_data_url
from broker.translate.refusals import invalid, missing
from broker.v1 import content_pb2

_ASSISTANT = content_pb2.ROLE_ASSISTANT
_TOOL = content_pb2.ROLE_TOOL


def check_messages(messages: Iterable[content_pb2.Message]) -> None:
    """Check messages whose roles are known; `data:` URLs in them become inline media.

    Raises:
        InferenceError: invalid_request, with the path of what is wrong.
    """
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role == _TOOL:
            if not any(part.HasField("tool_result") for part in message.parts):
                raise missing(f"{where}.tool_call_id")
        elif message.role != _ASSISTANT and not message.parts:
            raise missing(f"{where}.content")
        for part, place in _places(message.parts, where):
            _check_part(part, place, where, message.role)
        _check_extra(message.extra, where)


def _places(
    parts: Iterable[content_pb2.Part], where: str
) -> Iterator[tuple[content_pb2.Part, str]]:
    """Every part with its path."""
    counts: dict[str, int] = {}
    for part in parts:
        kind = part.WhichOneof("kind")
        if kind == "tool_result":
            yield part, where
        elif kind == "tool_call" and part.tool_call.legacy_function:
            yield part, f"{where}.function_call"
        elif kind == "audio" and part.audio.HasField("id"):
            yield part, f"{where}.audio"
        else:
            owner = _OWNERS.get(kind or "", "content")
            index = counts[owner] = counts.get(owner, -1) + 1
            yield part, f"{where}.{owner}[{index}]"


_OWNERS = {"tool_call": "tool_calls", "reasoning": "reasoning_details"}


def _check_part(
    part: content_pb2.Part, place: str, where: str, role: content_pb2.Role.ValueType
) -> None:
    kind = part.WhichOneof("kind")
    if kind is None:
        raise missing(f"{place}.type")
    if kind == "tool_call" and role != _ASSISTANT:
        raise invalid(f"{where}.tool_calls", "Only messages of the assistant have tool calls.")
    if kind == "tool_result" and role not in _RESULTS:
        raise invalid(f"{where}.role", "A message with the result of a tool has the role 'tool'.")
    _CHECKS[kind](part, place)
    if part.cache_control:
        read_object(part.cache_control, f"{place}.cache_control")
    _check_extra(part.extra, place)


# Some APIs let the user say what a tool returned.
_RESULTS = frozenset({_TOOL, content_pb2.ROLE_USER})


def _check_extra(extra: Mapping[str, bytes], where: str) -> None:
    for name, data in extra.items():
        read_json(data, f"{where}.{name}")


def _text(part: content_pb2.Part, place: str) -> None:
    if part.text.annotations:
        read_array(part.text.annotations, f"{place}.annotations")
    if part.text.logprobs:
        read_array(part.text.logprobs, f"{place}.logprobs")


def _image(part: content_pb2.Part, place: str) -> None:
    image = part.image
    source = image.WhichOneof("source")
    if source is None:
        raise missing(f"{place}.image_url")
    if source == "file_id" and not image.file_id:
        raise missing(f"{place}.image_url")
    if source == "url":
        param = f"{place}.image_url.url"
        if not image.url:
            message = f"Invalid '{param}': expected an http(s) or data URL."
            raise invalid(param, message, "invalid_image_url")
        if is_data_url(image.url):
            _move_inline(image, image.url, param)


def _audio(part: content_pb2.Part, place: str) -> None:
    audio = part.audio
    source = audio.WhichOneof("source")
    if source == "id":
        if not audio.id:
            raise missing(f"{place}.id")
    elif part.item_id:
        # An answer that is sent back: providers know their own audio by its id.
        audio.id = part.item_id
    elif source is None:
        raise missing(f"{place}.input_audio")
    elif not audio.format:
        raise missing(f"{place}.input_audio.format")


def _file(part: content_pb2.Part, place: str) -> None:
    file = part.file
    source = file.WhichOneof("source")
    param = f"{place}.file.file_data"
    if source is None or (source == "file_id" and not file.file_id):
        raise missing(param)
    if source == "url":
        if is_data_url(file.url):
            _move_inline(file, file.url, param)
        elif not is_address(file.url):
            raise invalid(param, f"Invalid '{param}': expected an http(s) or data URL.")


def _move_inline(owner: content_pb2.Image | content_pb2.File, url: str, param: str) -> None:
    inline = content_pb2.InlineData()
    read_data_url(inline, url, param)
    owner.inline.CopyFrom(inline)


def _tool_call(part: content_pb2.Part, place: str) -> None:
    call = part.tool_call
    if call.kind not in _KINDS:
        raise invalid(
            f"{place}.type",
            f"Invalid value: {call.kind}. Supported values are: 'function', 'custom'.",
        )
    if call.legacy_function:
        owner, text = place, "arguments"
    else:
        if not call.call_id:
            raise missing(f"{place}.id")
        word, text = _KINDS[call.kind]
        owner = f"{place}.{word}"
    if not call.name:
        raise missing(f"{owner}.name")
    read_text(call.arguments, f"{owner}.{text}")


_KINDS: dict[Any, tuple[str, str]] = {
    content_pb2.TOOL_KIND_UNSPECIFIED: ("function", "arguments"),
    content_pb2.TOOL_KIND_FUNCTION: ("function", "arguments"),
    content_pb2.TOOL_KIND_CUSTOM: ("custom", "input"),
}


def _tool_result(part: content_pb2.Part, place: str) -> None:
    result = part.tool_result
    if result.legacy_function:
        if not result.name:
            raise missing(f"{place}.name")
    elif not result.call_id:
        raise missing(f"{place}.tool_call_id")
    for inner, spot in _places(result.parts, place):
        if inner.WhichOneof("kind") in ("tool_call", "tool_result"):
            raise invalid(f"{place}.content", "The result of a tool holds no calls or results.")
        _check_part(inner, spot, place, _TOOL)


def _reasoning(part: content_pb2.Part, place: str) -> None:
    for index, blob in enumerate(part.reasoning.blobs):
        for name in ("issuer", "kind"):
            if not getattr(blob, name):
                raise missing(f"{place}.blobs[{index}].{name}")


def _opaque(part: content_pb2.Part, place: str) -> None:
    opaque = part.opaque
    if not opaque.type:
        raise missing(f"{place}.type")
    if not opaque.issuer:
        raise missing(f"{place}.issuer")
    read_object(opaque.json, place)


def _refusal(part: content_pb2.Part, place: str) -> None:
    """A refusal can say anything."""


_CHECKS: dict[str, Callable[[content_pb2.Part, str], None]] = {
    "text": _text,
    "image": _image,
    "audio": _audio,
    "file": _file,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "reasoning": _reasoning,
    "refusal": _refusal,
    "opaque": _opaque,
}
