"""Images in OpenAI's format, as OpenAI and those that followed it draw and edit them.

The quirk `paths` says where calls go: `{call}` in it is the path, `{model}` the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers import pictures
from workers.counts import count
from workers.fragments import merge
from workers.framing import SseFramer
from workers.headers import rate_limits, request_id
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Form, Provider
from workers.sniffing import SniffingDecoder
from workers.whole import WholeDecoder

_Image = operations_pb2.ImageRequest
_Event = event_pb2.Event

_HEADERS = {"content-type": "application/json"}
# Fields that go out under their own names, where they are taken.
_PLAIN = (
    "n",
    "quality",
    "style",
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "input_fidelity",
    "user",
)
EVERYTHING = frozenset({*_PLAIN, "size"})
_FACTS = ("background", "output_format", "quality", "size")

Write = Callable[[dict[str, Any], Any], None]


def as_size(body: dict[str, Any], size: str) -> None:
    """The size as OpenAI has it."""
    body["size"] = size


def as_width_and_height(body: dict[str, Any], size: str) -> None:
    """The size in two numbers."""
    if (found := pictures.pixels(size)) is not None:
        body["width"], body["height"] = found


def as_ratio(*ratios: str) -> Write:
    """The size as the nearest of these ratios."""

    def write(body: dict[str, Any], size: str) -> None:
        if (ratio := pictures.nearest_ratio(size, ratios)) is not None:
            body.setdefault("aspect_ratio", ratio)

    return write


@dataclass(frozen=True, slots=True)
class Edits:
    """How pictures are sent along."""

    path: str
    # Writes their addresses into the body.
    write: Callable[[dict[str, Any], list[str]], None]
    most: int = 16
    # Bytes go as the files of a form, beside a mask; else pictures may be ids of uploads.
    form: bool = False


def _nothing(_body: dict[str, Any], _addresses: list[str]) -> None:
    """Pictures are written otherwise."""


# As OpenAI takes them.
FORM = Edits("/images/edits", _nothing, form=True)


@dataclass(frozen=True, slots=True)
class OpenAiImages:
    """The dialect, with what a provider does differently. It has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]
    path: str = "/images/generations"
    # Fields that it takes.
    takes: frozenset[str] = EVERYTHING
    size: Write = as_size
    edits: Edits | None = None
    variations: bool = False
    # Models that can be asked for addresses or base64, and the word for the latter.
    formats: str = ""
    base64: str = "b64_json"
    # Whether pictures come on the way.
    streams: bool = False

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request.

        Raises `InferenceError` for pictures or a mask where they are not taken.
        """
        image, losses = request.image, Losses()
        body: dict[str, Any] = {"model": model}
        if image.prompt:
            body["prompt"] = image.prompt
        merge(body, image.extra)
        self._options(image, model, body, losses)
        path, form = self._along(image, body, model)
        losses.refuse(request.platform, model)
        path = provider.quirks.get("paths", "{call}").replace("{call}", path)
        path = path.replace("{model}", segment(model)) if "{" in path else path
        if not form:
            return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)
        return Call(path, dropped=losses.names, form=(*_texts(body), *form))

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer, which is read as what it turns out to be."""

        def whole() -> Decoder:
            return WholeDecoder(headers, lambda answer: self._read(answer, headers))

        return SniffingDecoder(whole, lambda: _StreamDecoder(headers, self.errors))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _options(self, image: _Image, model: str, body: dict[str, Any], losses: Losses) -> None:
        for name in _PLAIN:
            if image.HasField(name) and name in self.takes:  # type: ignore[arg-type]
                body[name] = getattr(image, name)
            elif image.HasField(name) and not (name == "n" and image.n == 1):  # type: ignore[arg-type]
                losses.drop(name)
        if image.HasField("size"):
            self.size(body, image.size)
        if image.HasField("response_format"):
            if self.formats and re.search(self.formats, model):
                word = image.response_format
                body["response_format"] = self.base64 if word == "b64_json" else word
            elif image.response_format == "url":
                losses.drop("response_format")
        if self.streams and image.stream:
            body["stream"] = True
            if image.HasField("partial_images"):
                body["partial_images"] = image.partial_images

    def _along(self, image: _Image, body: dict[str, Any], model: str) -> tuple[str, Form]:
        """The path, and the files where the call is a form; else the body has the pictures."""
        if not image.images:
            return self.path, ()
        if image.variation and not self.variations:
            raise _cannot(f"{model} makes no variations", "model", "unsupported_operation")
        edits = self.edits
        if edits is None:
            raise _cannot(f"{model} does not edit images", "image", "unsupported_operation")
        if len(image.images) > edits.most:
            raise _cannot(f"{model} takes at most {edits.most} image(s)", "image")
        path = "/images/variations" if image.variation else edits.path
        given = [("image", one) for one in image.images]
        if image.HasField("mask"):
            if not edits.form:
                raise _cannot(f"{model} takes no mask: leave it out", "mask")
            given.append(("mask", image.mask))
        if edits.form and all(pictures.is_sent(one) for _, one in given):
            return path, tuple(_file(name, one, len(image.images)) for name, one in given)
        if not edits.form:
            edits.write(body, [pictures.address_of(one, "image") for one in image.images])
            return path, ()
        body["images"] = [_reference(one) for one in image.images]
        if image.HasField("mask"):
            body["mask"] = _reference(image.mask)
        return path, ()

    def _read(
        self, answer: Any, headers: Mapping[str, str]
    ) -> tuple[event_pb2.Started, list[_Event], event_pb2.Usage]:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list) or not data:
            raise self.errors(502, headers, orjson.dumps(answer))
        created = count(answer.get("created")) or 0
        started = event_pb2.Started(created=created, upstream_id=str(answer.get("id") or ""))
        events = [_facts(answer)]
        events += [_picture(number, entry) for number, entry in enumerate(data)]
        return started, events, usage_of(answer.get("usage"), len(data))


def _cannot(message: str, param: str, reason: str = "unsupported_parameter") -> InferenceError:
    return InferenceError(reason, message, param=param)


# --- pictures along with a request --------------------------------------------------------------


def _texts(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields of a body as those of a form."""
    for name, value in body.items():
        written = orjson.dumps(value)
        # Texts stand there as they are, all else as JSON.
        text = orjson.loads(written) if written.startswith(b'"') else written.decode()
        yield name, text


def _file(
    name: str, one: operations_pb2.Attachment, images: int
) -> tuple[str, operations_pb2.Attachment]:
    kind = pictures.media_type(one)
    file = operations_pb2.Attachment(filename=one.filename or f"{name}.{kind[6:]}", media_type=kind)
    if one.HasField("reference"):
        file.reference.CopyFrom(one.reference)
    else:
        file.data = one.data
    return "image[]" if name == "image" and images > 1 else name, file


def _reference(one: operations_pb2.Attachment) -> dict[str, str]:
    if one.HasField("file_id"):
        return {"file_id": one.file_id}
    return {"image_url": pictures.address_of(one, "image")}


# --- pictures that come back --------------------------------------------------------------------


def _facts(said: Mapping[str, Any]) -> _Event:
    facts = {name: said[name] for name in _FACTS if isinstance(said.get(name), str)}
    return _Event(image_facts=operations_pb2.ImageFacts(**facts))


def _picture(number: int, entry: Mapping[str, Any]) -> _Event:
    delta = event_pb2.ImageDelta(item=number)
    delta.revised_prompt = str(entry.get("revised_prompt") or "")
    # One writes base64 under either name.
    if text := entry.get("b64_json") or entry.get("base64"):
        delta.image.CopyFrom(pictures.inline(text))
    else:
        delta.url = entry["url"]
    return _Event(image=delta)


def usage_of(reported: Any, images: int) -> event_pb2.Usage:
    """The token classes of a `usage`, and how many pictures there are to be billed."""
    usage = event_pb2.Usage(images=images)
    if not isinstance(reported, dict):
        return usage
    read = _number(reported, "input_tokens") or _number(reported, "prompt_tokens")
    made = _number(reported, "output_tokens") or _number(reported, "completion_tokens")
    seen = min(_number(_object(reported, "input_tokens_details"), "image_tokens"), read)
    said = _object(reported, "output_tokens_details")
    # Whoever tells no parts has drawn with all of it.
    spoken = min(_number(said, "text_tokens"), made)
    usage.input_tokens, usage.input_image_tokens = read - seen, seen
    usage.output_tokens, usage.output_image_tokens = spoken, made - spoken
    return usage


def _number(values: Mapping[str, Any], name: str) -> int:
    return count(values.get(name)) or 0


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


class _StreamDecoder:
    """A stream of pictures: partial ones, and the finished one with what it cost."""

    def __init__(
        self,
        headers: Mapping[str, str],
        errors: Callable[[int, Mapping[str, str], bytes], InferenceError],
    ) -> None:
        self._headers = headers
        self._errors = errors
        self._framer = SseFramer(limit=64 << 20)
        self._started = False
        self._finished: list[dict[str, Any]] = []
        self._drawn = 0

    def feed(self, data: bytes) -> Iterator[_Event]:
        """The events that became whole with these bytes."""
        for name, payload in self._framer.feed(data):
            yield from self._event(name, payload)

    def close(self) -> Iterator[_Event]:
        """The end, which tells what all cost; a stream without a finished picture was cut."""
        for name, payload in self._framer.close():
            yield from self._event(name, payload)
        if not self._finished:
            raise self._error("upstream_incomplete", "the stream ended before the image was drawn")
        usage = usage_of(self._finished[-1].get("usage"), self._drawn)
        yield _Event(completed=event_pb2.Completed(usage=usage))

    def _event(self, name: bytes, payload: bytes) -> Iterable[_Event]:
        if not payload.strip() or payload.startswith(b"[DONE]"):
            return []
        try:
            said = orjson.loads(payload)
            kind = str(said.get("type") or name.decode("utf-8", "replace"))
            if kind == "error" or said.get("error"):
                raise self._failure(said)
            return self._picture(kind, said)
        except (orjson.JSONDecodeError, AttributeError, KeyError, ValueError) as exc:
            message = f"the provider's stream has an unknown form: {exc}"
            raise self._error("upstream_error", message) from exc

    def _picture(self, kind: str, said: dict[str, Any]) -> Iterable[_Event]:
        if not kind.endswith((".partial_image", ".completed")):
            return []
        events: list[_Event] = []
        if not self._started:
            self._started = True
            started = event_pb2.Started(
                created=count(said.get("created_at")) or 0,
                upstream_request_id=request_id(self._headers),
                rate_limits=rate_limits(self._headers),
            )
            events += [_Event(started=started), _facts(said)]
        if kind.endswith(".completed"):
            self._finished = [said]
            events += [_facts(said), _picture(self._drawn, said)]
            self._drawn += 1
            said.pop("b64_json", None)
            return events
        delta = event_pb2.ImageDelta(item=self._drawn, partial=True)
        delta.partial_index = count(said.get("partial_image_index")) or 0
        delta.image.CopyFrom(pictures.inline(said["b64_json"]))
        events.append(_Event(image=delta))
        return events

    def _failure(self, said: dict[str, Any]) -> InferenceError:
        inner = said.get("error")
        error = inner if isinstance(inner, dict) else said
        words = f"{error.get('type') or ''} {error.get('code') or ''}".lower()
        known = ((429, ("rate_limit", "quota")), (400, ("invalid", "user_error", "moderation")))
        status = next((code for code, some in known if any(word in words for word in some)), 500)
        failure = self._errors(status, self._headers, orjson.dumps({"error": error}))
        failure.upstream_status = 0  # the answer itself came with 200
        return failure

    def _error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason, message, upstream_status=200, upstream_request_id=request_id(self._headers)
        )
