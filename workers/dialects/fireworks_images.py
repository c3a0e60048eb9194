"""Images from the workflows of Fireworks: one picture a call, from text alone.

Source: https://docs.fireworks.ai/api-reference/generate-a-new-image-from-a-text-prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers import pictures
from workers.fragments import merge
from workers.parameters import Losses
from workers.paths import resource
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json", "accept": "application/json"}
_RATIOS = ("1:1", "21:9", "16:9", "3:2", "5:4", "4:5", "2:3", "9:16", "9:21", "4:3", "3:4")
_LEFT_OUT = (
    *("quality", "style", "background", "moderation"),
    *("output_format", "output_compression", "input_fidelity", "user"),
)


@dataclass(frozen=True, slots=True)
class FireworksImages:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]

    def most_images(self, _model: str) -> int:
        """How many pictures a call can be asked for."""
        return 1

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        image, losses = request.image, Losses()
        if image.images:
            message = f"{model} draws from text alone"
            raise InferenceError("unsupported_operation", message, param="image")
        body: dict[str, Any] = {"prompt": image.prompt}
        if (ratio := pictures.nearest_ratio(image.size, _RATIOS)) is not None:
            body["aspect_ratio"] = ratio
        pictures.leave_out(image, _LEFT_OUT, losses)
        losses.refuse(request.platform, model)
        path = f"/workflows/{resource(model)}/text_to_image"
        data = orjson.dumps(merge(body, image.extra))
        return Call(path, data, _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return WholeDecoder(headers, _read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _read(answer: Any) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
    if "FILTER" in str(answer.get("finishReason")).upper():
        message = "the provider's filter let no image through"
        raise InferenceError("content_policy_violation", message, param="prompt")
    given = answer["base64"]
    texts = given if isinstance(given, list) else [given]
    events = [pictures.drawn(number, text) for number, text in enumerate(texts)]
    started = event_pb2.Started(upstream_id=str(answer.get("id") or ""))
    return started, events, event_pb2.Usage(images=len(events))
