"""Image requests in OpenAI's format: pictures drawn, edited and varied, as JSON and as forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.translate import wire
from broker.translate.body import as_it_is, read_body, refuse_known, shaped, write_rest
from broker.translate.media import is_data_url, read_data_url
from broker.translate.multipart import Fields, form_shaped, typed
from broker.translate.refusals import invalid, missing
from broker.v1 import content_pb2, generation_pb2, operations_pb2

_MOST_IMAGES = 16
_SIZE = re.compile(r"auto|[1-9]\d{1,4}x[1-9]\d{1,4}")
_RESPONSE_FORMATS = ("b64_json", "url")


class _Options(wire.Platform, kw_only=True):
    """What all three endpoints take."""

    model: wire.Model
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: Annotated[
        str | None, Meta(description="`auto`, or width and height such as `1536x1024`.")
    ] = None
    response_format: Annotated[str | None, Meta(description="`b64_json` or `url`.")] = None
    user: str | None = None


_Prompt = Annotated[str, Meta(min_length=1)]


class ImagesRequest(_Options, kw_only=True):
    """A request for pictures of a text."""

    prompt: _Prompt
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_format: Annotated[str | None, Meta(description="`png`, `webp`, `jpeg`.")] = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None


class ImageReference(Struct):
    """A picture by its address, as a `data:` URL, or by the id of an upload."""

    image_url: str | wire.ImageUrl | None = None
    url: str | None = None
    file_id: str | None = None


_Reference = str | ImageReference


class ImageEditsRequest(ImagesRequest, kw_only=True):
    """A request to change pictures; in a form, `image` and `mask` are files."""

    images: list[_Reference] | None = None
    image: str | ImageReference | list[_Reference] | None = None
    mask: _Reference | None = None
    input_fidelity: str | None = None


class ImageVariationsRequest(_Options, kw_only=True):
    """A request for other versions of a picture, which is a file in a form."""

    image: str | ImageReference | None = None


def parse_images(body: bytes) -> generation_pb2.Request:
    """The hub request for a body of /v1/images/generations.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    return _written(source, shaped(source, ImagesRequest))


def parse_edits(body: bytes) -> generation_pb2.Request:
    """The hub request for a body of /v1/images/edits that is JSON."""
    source = read_body(body)
    asked = shaped(source, ImageEditsRequest)
    request = _written(source, asked)
    _add_references(request.image, asked)
    if not request.image.images:
        raise missing("images")
    return request


def parse_edits_form(form: Fields) -> generation_pb2.Request:
    """The hub request for a form of /v1/images/edits."""
    source = form.source(ImageEditsRequest, lists=("image", "images"))
    asked = form_shaped(source, ImageEditsRequest)
    request = _written(typed(source, asked), asked)
    _add_references(request.image, asked)
    _add_files(request.image, form, ("image", "images", "mask"))
    if not request.image.images:
        raise missing("image")
    return request


def parse_variations(body: bytes) -> generation_pb2.Request:
    """The hub request for a body of /v1/images/variations that is JSON."""
    source = read_body(body)
    return _varied(source, shaped(source, ImageVariationsRequest), Fields())


def parse_variations_form(form: Fields) -> generation_pb2.Request:
    """The hub request for a form of /v1/images/variations."""
    source = form.source(ImageVariationsRequest)
    asked = form_shaped(source, ImageVariationsRequest)
    return _varied(typed(source, asked), asked, form)


def check_image(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    image = request.image
    for field, value in image.ListFields():
        if field.name == "model" or (field.name in _WRITERS and field.name != "stream"):
            body[field.name] = value
    if image.variation:
        _check_options(shaped(body, ImageVariationsRequest))
        if len(image.images) != 1:
            raise missing("images[0]")
    else:
        if image.prompt:
            body["prompt"] = image.prompt
        _check_options(shaped(body, ImageEditsRequest))
    for index, attachment in enumerate(image.images):
        _check_attachment(attachment, f"images[{index}]")
    if image.HasField("mask"):
        _check_attachment(image.mask, "mask")
    _check_count(image)
    refuse_known(image.extra, ImageEditsRequest)


def _written(source: Any, asked: ImagesRequest) -> generation_pb2.Request:
    _check_options(asked)
    request = generation_pb2.Request()
    request.image.model = asked.model
    request.image.prompt = asked.prompt
    write_rest(request, request.image, source, _WRITERS, _DONE)
    return request


def _varied(source: Any, asked: ImageVariationsRequest, form: Fields) -> generation_pb2.Request:
    _check_options(asked)
    request = generation_pb2.Request()
    image = request.image
    image.model = asked.model
    image.variation = True
    write_rest(request, image, source, _WRITERS, _DONE)
    if asked.image is not None:
        _refer(image.images.add(), asked.image, "image")
    _add_files(image, form, ("image",))
    if len(image.images) != 1:
        raise missing("image") if not image.images else invalid("image", "Give one 'image'.")
    return request


def _check_options(asked: _Options) -> None:
    """What the types cannot say."""
    if asked.size is not None and not _SIZE.fullmatch(asked.size):
        message = f"Invalid value: {asked.size!r:.60}. Use 'auto', or a size such as '1024x1024'."
        raise invalid("size", message)
    if asked.response_format not in (None, *_RESPONSE_FORMATS):
        known = ", ".join(f"'{word}'" for word in _RESPONSE_FORMATS)
        message = f"Invalid value: {asked.response_format!r:.60}. Supported values are: {known}."
        raise invalid("response_format", message)
    if isinstance(asked, ImagesRequest) and asked.partial_images and not asked.stream:
        message = "The 'partial_images' parameter is only allowed when 'stream' is enabled."
        raise invalid("partial_images", message)


def _check_count(image: operations_pb2.ImageRequest) -> None:
    if len(image.images) > _MOST_IMAGES:
        raise invalid(
            "images",
            f"Invalid 'images': array too long. Expected an array with maximum length "
            f"{_MOST_IMAGES}, but got an array with length {len(image.images)} instead.",
            "array_above_max_length",
        )


def _check_attachment(attachment: operations_pb2.Attachment, where: str) -> None:
    kind = attachment.WhichOneof("source")
    if kind is None or kind == "reference":
        raise missing(where)
    if not getattr(attachment, kind):
        raise _empty(where)


# --- pictures that come along ------------------------------------------------------------------


def _add_references(image: operations_pb2.ImageRequest, asked: ImageEditsRequest) -> None:
    for name in ("images", "image"):
        given = getattr(asked, name)
        if given is None:
            continue
        if not isinstance(given, list):
            _refer(image.images.add(), given, name)
            continue
        for index, reference in enumerate(given):
            _refer(image.images.add(), reference, f"{name}[{index}]")
    if asked.mask is not None:
        _refer(image.mask, asked.mask, "mask")
    _check_count(image)


def _refer(attachment: operations_pb2.Attachment, given: _Reference, where: str) -> None:
    if isinstance(given, str):
        given = ImageReference(image_url=given)
    url = given.image_url if given.image_url is not None else given.url
    if isinstance(url, wire.ImageUrl):
        url = url.url
    add_reference(attachment, url or "", given.file_id or "", where)


def add_reference(
    attachment: operations_pb2.Attachment, url: str, file_id: str, where: str
) -> None:
    """Fill an attachment with what its address, or the id of an upload, stands for."""
    if file_id and not url:
        attachment.file_id = file_id
        return
    if not url:
        raise missing(f"{where}.image_url")
    if not is_data_url(url):
        attachment.url = url
        return
    inline = content_pb2.InlineData()
    read_data_url(inline, url, f"{where}.image_url")
    if not inline.data:
        raise _empty(f"{where}.image_url")
    attachment.media_type = inline.media_type
    attachment.data = inline.data


def _add_files(image: operations_pb2.ImageRequest, form: Fields, names: Iterable[str]) -> None:
    for name, files in form.files.items():
        if name not in names:
            raise invalid(name, f"Unknown file: '{name}'.", "unknown_parameter")
        for file in files:
            if not file.data:
                raise _empty(name)
            if name != "mask":
                image.images.append(file.attachment())
            elif image.HasField("mask"):
                raise invalid("mask", "Give one 'mask'.")
            else:
                image.mask.CopyFrom(file.attachment())
    _check_count(image)


def _empty(where: str) -> Exception:
    return invalid(where, f"Invalid '{where}': the image is empty.", "invalid_image_file")


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    name: as_it_is(name)
    for name in (
        "background",
        "input_fidelity",
        "moderation",
        "n",
        "output_compression",
        "output_format",
        "partial_images",
        "quality",
        "response_format",
        "size",
        "stream",
        "style",
        "user",
    )
}
_DONE = frozenset({"model", "prompt", "images", "image", "mask"})
