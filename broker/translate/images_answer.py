"""Renders drawn pictures: the whole answer, and the events of a stream, as OpenAI's API does."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from broker.answer import Fold
from broker.errors import InferenceError
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM, JSON
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import event_pb2, generation_pb2, operations_pb2

_FACTS = ("background", "output_format", "quality", "size")
# A body above this is written in pieces rather than put together.
_LARGE = 1 << 20
_json = msgspec.json.Encoder().encode


class ImagesAnswer:
    """Takes the events of one answer in and renders the list of pictures."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold(pictures=True)
        self._created = created

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes | Iterator[bytes]:
        """The body, once the answer is complete; a large one a picture at a time."""
        pictures = self._fold.pictures()
        pieces = self._pieces(pictures)
        large = sum(picture.ByteSize() for picture in pictures) > _LARGE
        return pieces if large else b"".join(pieces)

    def _pieces(self, pictures: list[event_pb2.ImageDelta]) -> Iterator[bytes]:
        yield b'{"created":%d,"data":[' % (self._fold.started.created or self._created)
        for number, picture in enumerate(pictures):
            shown = _source(picture)
            if picture.revised_prompt:
                shown["revised_prompt"] = picture.revised_prompt
            yield (b"," if number else b"") + _json(shown)
        rest: dict[str, Any] = {**_said(self._fold.image_facts)}
        if (usage := _usage(self._fold.usage)) is not None:
            rest["usage"] = usage
        yield b"]," + _json(rest)[1:] if rest else b"]}"


class ImagesStream:
    """Renders one answer event by event; an edit's are named after it."""

    content_type = EVENT_STREAM
    keep_alive = COMMENT

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        asked = request.image
        self._name = "image_edit" if asked.images else "image_generation"
        self._created = created
        self._fold = Fold(pictures=True)
        # What clients read even where the provider does not say it.
        self._facts = {
            "background": asked.background or "auto",
            "output_format": asked.output_format or "png",
            "quality": asked.quality or "auto",
            "size": asked.size or "auto",
        }

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """What these events show. Finished pictures wait for the end, which says what they cost."""
        out = b""
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "started":
                self._created = event.started.created or self._created
            elif kind == "image_facts":
                self._facts.update(_said(event.image_facts))
            elif kind == "image" and event.image.partial and event.image.HasField("image"):
                index = {"partial_image_index": event.image.partial_index}
                out += self._event("partial_image", event.image, index)
            self._fold.feed((event,))
        return out

    def finish(self) -> bytes:
        """The finished pictures; the last of them says what all cost."""
        out = []
        pictures = self._fold.pictures()
        for number, picture in enumerate(pictures, 1):
            rest: dict[str, Any] = {}
            if picture.revised_prompt:
                rest["revised_prompt"] = picture.revised_prompt
            if number == len(pictures):
                rest["usage"] = _usage(self._fold.usage)
            out.append(self._event("completed", picture, rest))
        return b"".join(out)

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed."""
        return b"event: error\ndata: %b\n\n" % error_body(exc)

    def _event(self, kind: str, picture: event_pb2.ImageDelta, rest: dict[str, Any]) -> bytes:
        name = f"{self._name}.{kind}"
        facts = dict(self._facts)
        if picture.image.media_type.startswith("image/"):
            facts["output_format"] = picture.image.media_type.partition("/")[2]
        shown = {"type": name, **_source(picture), "created_at": self._created, **facts, **rest}
        return b"event: %b\ndata: %b\n\n" % (name.encode(), _json(shown))


def _source(picture: event_pb2.ImageDelta) -> dict[str, Any]:
    if picture.HasField("image"):
        return {"b64_json": b64encode(picture.image.data).decode()}
    return {"url": picture.url}


def _said(facts: operations_pb2.ImageFacts | None) -> dict[str, str]:
    if facts is None:
        return {}
    return {name: value for name in _FACTS if (value := getattr(facts, name))}


def _usage(usage: event_pb2.Usage | None) -> dict[str, Any] | None:
    """The field `usage`; None where nothing was counted in tokens."""
    usage = usage or event_pb2.Usage()
    read, drawn = prompt_tokens(usage), completion_tokens(usage)
    if not read and not drawn:
        return None
    shown: dict[str, Any] = {
        "input_tokens": read,
        "input_tokens_details": {
            "image_tokens": usage.input_image_tokens,
            "text_tokens": read - usage.input_image_tokens,
        },
        "output_tokens": drawn,
        "output_tokens_details": {
            "image_tokens": usage.output_image_tokens,
            "text_tokens": drawn - usage.output_image_tokens,
        },
        "total_tokens": read + drawn,
    }
    return {**shown, "estimated": True} if usage.estimated else shown
