"""Images from Bedrock's InvokeModel, whose body is each model family's own.

Source: https://docs.aws.amazon.com/nova/latest/userguide/image-gen-access.html and
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-stability-diffusion.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers import pictures
from workers.fragments import merge
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

_Image = operations_pb2.ImageRequest
_Body = dict[str, Any]

_HEADERS = {"content-type": "application/json", "accept": "application/json"}
_RATIOS = ("16:9", "1:1", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
_QUALITIES = {
    **dict.fromkeys(("low", "medium", "standard"), "standard"),
    **dict.fromkeys(("high", "hd", "xhigh", "max"), "premium"),
}
_LEFT_OUT = ("style", "background", "moderation", "output_compression", "input_fidelity", "user")


def _amazon(image: _Image, losses: Losses) -> _Body:
    config: _Body = {"numberOfImages": image.n or 1}
    if (size := pictures.pixels(image.size)) is not None:
        config["width"], config["height"] = size
    if quality := _QUALITIES.get(image.quality):
        config["quality"] = quality
    if image.HasField("output_format") and image.output_format != "png":
        losses.drop("output_format")
    body: _Body = {"taskType": "TEXT_IMAGE", "textToImageParams": {"text": image.prompt}}
    if image.images:
        given = [pictures.base64_of(one, "image") for one in image.images]
        varied: _Body = {"images": given}
        if image.prompt:
            varied["text"] = image.prompt
        body = {"taskType": "IMAGE_VARIATION", "imageVariationParams": varied}
    return {**body, "imageGenerationConfig": config}


def _stability(image: _Image, losses: Losses) -> _Body:
    if image.images:
        raise _cannot("this model draws from text alone", "image", "unsupported_operation")
    body: _Body = {"prompt": image.prompt, "mode": "text-to-image"}
    if (ratio := pictures.nearest_ratio(image.size, _RATIOS)) is not None:
        body["aspect_ratio"] = ratio
    if image.output_format in ("png", "jpeg"):
        body["output_format"] = image.output_format.upper()
    elif image.HasField("output_format"):
        losses.drop("output_format")
    if image.HasField("quality"):
        losses.drop("quality")
    return body


class _Family(NamedTuple):
    models: re.Pattern[str]
    write: Callable[[_Image, Losses], _Body]
    most: int


_FAMILIES = (
    _Family(re.compile(r"nova-canvas|titan-image"), _amazon, 5),
    _Family(re.compile(r"stability\."), _stability, 1),
)


def _family(model: str) -> _Family:
    for family in _FAMILIES:
        if family.models.search(model):
            return family
    raise _cannot(f"{model} draws no images", "model", "unsupported_operation")


@dataclass(frozen=True, slots=True)
class BedrockImages:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def most_images(self, model: str) -> int:
        """How many pictures a call can be asked for."""
        return _family(model).most

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        image, losses = request.image, Losses()
        if image.HasField("mask"):
            # Black and white here, transparent at OpenAI.
            raise _cannot(f"{model} takes no mask of this kind: leave it out", "mask")
        body = _family(model).write(image, losses)
        pictures.leave_out(image, _LEFT_OUT, losses)
        losses.refuse(request.platform, model)
        data = orjson.dumps(merge(body, image.extra))
        return Call(f"/model/{segment(model)}/invoke", data, _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return WholeDecoder(headers, _read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _read(answer: Any) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
    filtered = [reason for reason in answer.get("finish_reasons") or () if reason]
    if said := answer.get("error") or (filtered and f"the images were filtered: {filtered[0]}"):
        raise InferenceError("content_policy_violation", str(said), param="prompt")
    events = [pictures.drawn(number, text) for number, text in enumerate(answer["images"])]
    if not events:
        raise ValueError("no image")
    return event_pb2.Started(), events, event_pb2.Usage(images=len(events))


def _cannot(message: str, param: str, reason: str = "unsupported_parameter") -> InferenceError:
    return InferenceError(reason, message, param=param)
