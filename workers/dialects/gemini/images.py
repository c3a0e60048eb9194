"""Image requests as generateContent of the models that answer with pictures.

A call gives one picture. A mask and an address to fetch the picture from are not to be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2, operations_pb2
from workers import pictures
from workers.dialects.gemini.decoder import GeminiDecoder
from workers.dialects.gemini.errors import error_of
from workers.dialects.gemini.request import write
from workers.dialects.gemini.surroundings import VERTEX_AI, Surroundings
from workers.parameters import Losses
from workers.provider import Call, Decoder, Provider, data_of

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9")
# The longer side up to which each size goes; the first generation has one size.
_SIZES = ((1536, "1K"), (3072, "2K"), (1 << 30, "4K"))
_ONE_SIZE = re.compile(r"gemini-2\.5")
_LEFT_OUT = ("quality", "style", "background", "moderation", "input_fidelity", "user")


@dataclass(frozen=True, slots=True)
class GeminiImages:
    """The dialect in one of its homes."""

    home: Surroundings

    def most_images(self, _model: str) -> int:
        """How many pictures a call can be asked for."""
        return 1

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        image, losses = request.image, Losses()
        if image.variation:
            why = f"{model} makes no variations: edit the image with a prompt"
            raise InferenceError("unsupported_operation", why, param="model")
        if image.HasField("mask"):
            why = f"{model} takes no mask: say in the prompt what is to be changed"
            raise InferenceError("unsupported_parameter", why, param="mask")
        asked = generation_pb2.Request(platform=request.platform)
        generate = asked.generate
        generate.model = image.model
        generate.modalities.append("image")
        message = generate.messages.add(role=content_pb2.ROLE_USER)
        for attachment in image.images:
            _add(message.parts.add().image, attachment)
        if image.prompt:
            message.parts.add().text.text = image.prompt
        for name, data in image.extra.items():
            generate.extra[name] = data
        config = self._config(image, model, losses)
        if config and "imageConfig" not in generate.extra:
            generate.extra["imageConfig"] = orjson.dumps(config)
        pictures.leave_out(image, _LEFT_OUT, losses)
        losses.refuse(request.platform, model)
        call = write(asked, model, provider, self.home)
        return replace(call, dropped=(*losses.names, *call.dropped))

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        return _PicturesAlone(GeminiDecoder(request, headers, self.home.issuer))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)

    def _config(
        self, image: operations_pb2.ImageRequest, model: str, losses: Losses
    ) -> dict[str, Any]:
        config: dict[str, Any] = {}
        if (ratio := pictures.nearest_ratio(image.size, _RATIOS)) is not None:
            config["aspectRatio"] = ratio
            longer = max(pictures.pixels(image.size) or (0,))
            if not _ONE_SIZE.search(model):
                config["imageSize"] = next(name for most, name in _SIZES if longer <= most)
        output: dict[str, Any] = {}
        if self.home is VERTEX_AI and image.output_format in ("png", "jpeg"):
            output["mimeType"] = f"image/{image.output_format}"
            if image.HasField("output_compression"):
                output["compressionQuality"] = image.output_compression
        else:
            for name in ("output_format", "output_compression"):
                if image.HasField(name):
                    losses.drop(name)
        if output:
            config["imageOutputOptions"] = output
        return config


def _add(image: content_pb2.Image, attachment: operations_pb2.Attachment) -> None:
    if pictures.is_sent(attachment):
        image.inline.data = data_of(attachment)
        image.inline.media_type = pictures.media_type(attachment)
    elif attachment.HasField("url"):
        image.url = attachment.url
    else:
        image.file_id = attachment.file_id


class _PicturesAlone:
    """What a model says beside its pictures is left out, unless it drew none."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._drawn = 0
        self._said = ""
        self._reason = event_pb2.FINISH_REASON_UNSPECIFIED

    def feed(self, data: bytes) -> Iterator[event_pb2.Event]:
        """Events that became whole with these bytes."""
        return self._over(self._decoder.feed(data))

    def close(self) -> Iterator[event_pb2.Event]:
        """The last events. Raises `InferenceError` where nothing was drawn."""
        return self._over(self._decoder.close())

    def _over(self, events: Iterable[event_pb2.Event]) -> Iterator[event_pb2.Event]:
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "image":
                event.image.item = self._drawn
                self._drawn += 1
                yield event
            elif kind in ("text", "refusal"):
                self._said += getattr(event, kind).text
            elif kind == "choice_finished":
                self._reason = event.choice_finished.reason
            elif kind == "completed":
                if not self._drawn:
                    raise self._nothing()
                event.completed.usage.images = self._drawn
                yield event
            elif kind == "started":
                yield event

    def _nothing(self) -> InferenceError:
        if self._reason == event_pb2.FINISH_REASON_CONTENT_FILTER:
            said = self._said or "the provider's filter let no image through"
            return InferenceError("content_policy_violation", said, param="prompt")
        said = f": {self._said[:300]}" if self._said else ""
        return InferenceError("upstream_error", f"the model drew no image{said}")
