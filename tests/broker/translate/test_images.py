"""Image requests and answers in OpenAI's format, as JSON, as forms and as typed messages."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.check import check
from broker.translate.images import (
    parse_edits,
    parse_edits_form,
    parse_images,
    parse_variations,
    parse_variations_form,
)
from broker.translate.images_answer import ImagesAnswer, ImagesStream
from broker.translate.multipart import Fields, File
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from tests.broker.translate.mistakes import refused

PNG = b"\x89PNG\r\n\x1a\n rest"
DATA_URL = f"data:image/png;base64,{b64encode(PNG).decode()}"


def parse(**fields: Any) -> generation_pb2.Request:
    return parse_images(json.dumps({"model": "m", "prompt": "a fox", **fields}).encode())


def edit(**fields: Any) -> generation_pb2.Request:
    return parse_edits(json.dumps({"model": "m", "prompt": "a fox", **fields}).encode())


def test_every_field_has_its_place() -> None:
    asked: dict[str, Any] = {
        "n": 2,
        "size": "1536x1024",
        "quality": "high",
        "style": "vivid",
        "background": "transparent",
        "moderation": "low",
        "output_format": "webp",
        "output_compression": 50,
        "response_format": "b64_json",
        "user": "u",
        "stream": True,
        "partial_images": 3,
    }
    request = parse(**asked, safety_identifier="s", tags=["a"], negative=None)
    image = request.image
    assert {name: getattr(image, name) for name in asked} == asked
    assert (image.model, image.prompt) == ("m", "a fox")
    assert dict(image.extra) == {"safety_identifier": b'"s"'}
    assert list(request.platform.tags) == ["a"]


MISTAKES: list[tuple[str, Any, str, str]] = [
    ("model", "", "model", "empty_string"),
    ("prompt", "", "prompt", "empty_string"),
    ("n", 0, "n", "integer_below_min_value"),
    ("n", 11, "n", "integer_above_max_value"),
    ("size", "huge", "size", "invalid_value"),
    ("size", "0x9", "size", "invalid_value"),
    ("partial_images", 4, "partial_images", "integer_above_max_value"),
    ("partial_images", 1, "partial_images", "invalid_value"),
    ("output_compression", 101, "output_compression", "integer_above_max_value"),
    ("response_format", "gif", "response_format", "invalid_value"),
    ("tags", ["x" * 300], "tags[0]", "string_above_max_length"),
]
ONLY_JSON: list[tuple[str, Any, str, str]] = [
    ("prompt", None, "prompt", "missing_required_parameter"),
    ("prompt", ["a"], "prompt", "invalid_type"),
    ("n", "2", "n", "invalid_type"),
    ("stream", "yes", "stream", "invalid_type"),
    ("quality", 1, "quality", "invalid_type"),
]


@pytest.mark.parametrize(("name", "value", "param", "code"), MISTAKES + ONLY_JSON)
def test_a_mistake_in_the_body_is_told(name: str, value: Any, param: str, code: str) -> None:
    with refused(param, code):
        parse(**{name: value})


@pytest.mark.parametrize(("name", "value", "param", "code"), MISTAKES)
def test_the_same_mistake_is_told_of_typed_messages(
    name: str, value: Any, param: str, code: str
) -> None:
    request = generation_pb2.Request(
        image=operations_pb2.ImageRequest(
            model="m", prompt="p", **{} if name == "tags" else {name: value}
        )
        if name not in ("model", "prompt")
        else operations_pb2.ImageRequest(**{"model": "m", "prompt": "p", name: value})
    )
    if name == "tags":
        request.platform.tags.extend(value)
    if name in ("model", "prompt"):
        code = "missing_required_parameter"  # an unset field is an empty one
    with refused(param, code):
        check(request, streamed=False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"images": [{}]}, "images[0]"),
        ({"images": [{"data": b""}]}, "images[0]"),
        ({"images": [{"data": PNG}], "mask": {"url": ""}}, "mask"),
        ({"images": [{"data": PNG}] * 17}, "images"),
        ({"variation": True}, "images[0]"),
        ({"extra": {"n": b"1"}}, "n"),
    ],
)
def test_typed_pictures_are_checked(fields: dict[str, Any], param: str) -> None:
    image = operations_pb2.ImageRequest(model="m", prompt="p", **fields)
    with pytest.raises(InferenceError) as raised:
        check(generation_pb2.Request(image=image), streamed=False)
    assert raised.value.param == param


def test_a_good_typed_edit_passes() -> None:
    given = [operations_pb2.Attachment(data=PNG)]
    mask = operations_pb2.Attachment(file_id="f")
    image = operations_pb2.ImageRequest(
        model="m", prompt="p", images=given, mask=mask, partial_images=2
    )
    check(generation_pb2.Request(image=image), streamed=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"images": [{"image_url": DATA_URL}]},
        {"images": [{"image_url": {"url": DATA_URL}}]},
        {"images": [{"type": "image_url", "url": DATA_URL}]},
        {"images": [DATA_URL]},
        {"image": DATA_URL},
        {"image": [DATA_URL]},
        {"image": {"url": DATA_URL}},
    ],
)
def test_pictures_of_a_json_edit_come_in_several_forms(fields: dict[str, Any]) -> None:
    [image] = edit(**fields).image.images
    assert (image.media_type, image.data) == ("image/png", PNG)


def test_pictures_are_given_by_address_and_id_too() -> None:
    image = edit(
        images=[{"image_url": "https://x/a.png"}, {"file_id": "file-1"}],
        mask={"image_url": DATA_URL},
    ).image
    assert [one.WhichOneof("source") for one in image.images] == ["url", "file_id"]
    assert image.mask.data == PNG


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "images", "missing_required_parameter"),
        ({"images": []}, "images", "missing_required_parameter"),
        ({"images": [{}]}, "images[0].image_url", "missing_required_parameter"),
        ({"images": [1]}, "images[0]", "invalid_type"),
        ({"images": ["data:image/png;base64,***"]}, "images[0].image_url", "invalid_base64"),
        ({"images": ["data:image/png;base64,"]}, "images[0].image_url", "invalid_image_file"),
        ({"images": [DATA_URL] * 17}, "images", "array_above_max_length"),
        ({"images": [DATA_URL], "mask": {}}, "mask.image_url", "missing_required_parameter"),
        ({"images": [DATA_URL], "n": 0}, "n", "integer_below_min_value"),
    ],
)
def test_a_mistake_in_a_json_edit_is_told(fields: Any, param: str, code: str) -> None:
    with pytest.raises(InferenceError) as raised:
        edit(**fields)
    assert (raised.value.param, raised.value.code) == (param, code)


def form(texts: dict[str, list[str]] | None = None, **files: list[bytes]) -> Fields:
    given = {
        name: [File(f"{name}.png", "image/png", data) for data in some]
        for name, some in files.items()
    }
    return Fields({"model": ["m"], "prompt": ["p"], **(texts or {})}, given)


def test_a_form_has_files_and_texts() -> None:
    texts = {"n": ["2"], "stream": ["true"], "partial_images": ["1"], "complexity": ["low"]}
    image = parse_edits_form(form(texts, image=[PNG, b"two"], mask=[b"m"])).image
    assert [(one.filename, one.reference.size) for one in image.images] == [
        ("image.png", len(PNG)),
        ("image.png", 3),
    ]
    assert (image.mask.reference.size, image.n, image.stream, image.partial_images) == (
        1,
        2,
        True,
        1,
    )
    assert dict(image.extra) == {"complexity": b'"low"'}


@pytest.mark.parametrize(
    ("made", "param", "code"),
    [
        (form(), "image", "missing_required_parameter"),
        (form(image=[b""]), "image", "invalid_image_file"),
        (form(image=[PNG], mask=[PNG, PNG]), "mask", "invalid_value"),
        (form(image=[PNG], markup=[PNG]), "markup", "unknown_parameter"),
        (form(image=[PNG] * 17), "images", "array_above_max_length"),
        (form({"n": ["two"]}, image=[PNG]), "n", "invalid_type"),
        (form({"prompt": [""]}, image=[PNG]), "prompt", "empty_string"),
    ],
)
def test_a_mistake_in_a_form_is_told(made: Fields, param: str, code: str) -> None:
    with pytest.raises(InferenceError) as raised:
        parse_edits_form(made)
    assert (raised.value.param, raised.value.code) == (param, code)


def test_a_variation_needs_one_picture_and_no_prompt() -> None:
    fields = Fields({"model": ["m"]}, {"image": [File("a.png", "image/png", PNG)]})
    image = parse_variations_form(fields).image
    assert (image.variation, image.prompt, len(image.images)) == (True, "", 1)
    body = json.dumps({"model": "m", "image": DATA_URL}).encode()
    assert parse_variations(body).image.images[0].data == PNG
    with pytest.raises(InferenceError) as raised:
        parse_variations(b'{"model": "m"}')
    assert raised.value.param == "image"


# --- answers -----------------------------------------------------------------------------------

USAGE = event_pb2.Usage(
    input_tokens=7, input_image_tokens=3, output_image_tokens=20, output_tokens=1, images=1
)
SHOWN_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"image_tokens": 3, "text_tokens": 7},
    "output_tokens": 21,
    "output_tokens_details": {"image_tokens": 20, "text_tokens": 1},
    "total_tokens": 31,
}


def events(*, url: bool = False) -> list[event_pb2.Event]:
    started, partial, facts, whole, completed = (event_pb2.Event() for _ in range(5))
    started.started.created = 1700000000
    partial.image.partial = True
    partial.image.partial_index = 1
    partial.image.image.data = b"half"
    partial.image.image.media_type = "image/png"
    facts.image_facts.size = "1024x1024"
    facts.image_facts.background = "opaque"
    if url:
        whole.image.url = "https://x/a.png"
    else:
        whole.image.image.data = b"whole"
        whole.image.image.media_type = "image/webp"
    whole.image.revised_prompt = "a red fox"
    completed.completed.usage.CopyFrom(USAGE)
    return [started, partial, facts, whole, completed]


def test_the_whole_answer_has_pictures_facts_and_usage() -> None:
    answer = ImagesAnswer("image-1", 5, parse())
    answer.feed(events())
    rendered = answer.render()
    assert isinstance(rendered, bytes)
    assert json.loads(rendered) == {
        "created": 1700000000,
        "data": [{"b64_json": b64encode(b"whole").decode(), "revised_prompt": "a red fox"}],
        "background": "opaque",
        "size": "1024x1024",
        "usage": SHOWN_USAGE,
    }


def test_an_address_is_an_address_and_what_is_not_counted_is_left_out() -> None:
    answer = ImagesAnswer("image-1", 5, parse())
    answer.feed([event for event in events(url=True) if not event.HasField("completed")])
    rendered = answer.render()
    assert isinstance(rendered, bytes)
    shown = json.loads(rendered)
    assert shown["data"] == [{"url": "https://x/a.png", "revised_prompt": "a red fox"}]
    assert "usage" not in shown


def test_large_pictures_are_written_one_at_a_time() -> None:
    answer = ImagesAnswer("image-1", 5, parse(n=3))
    answer.feed(events()[:1])
    for item in range(3):
        event = event_pb2.Event()
        event.image.item = item
        event.image.image.data = bytes([item]) * (1 << 20)
        answer.feed([event])
    pieces = answer.render()
    assert not isinstance(pieces, bytes)
    parts = list(pieces)
    assert len(parts) == 5
    data = json.loads(b"".join(parts))["data"]
    assert [one["b64_json"][:4] for one in data] == ["AAAA", "AQEB", "AgIC"]


@pytest.mark.parametrize("name", ["image_generation", "image_edit"])
def test_a_stream_has_partial_pictures_and_a_whole_one_with_its_usage(name: str) -> None:
    stream_it = {"stream": True, "quality": "low"}
    asked = edit(images=[DATA_URL], **stream_it) if name == "image_edit" else parse(**stream_it)
    stream = ImagesStream("image-1", 5, asked)
    out = b"".join(stream.feed([event]) for event in events()) + stream.finish()
    blocks = [block.split(b"\n") for block in out.strip().split(b"\n\n")]
    shown = [json.loads(data.removeprefix(b"data: ")) for _, data in blocks]
    assert [kind for kind, _ in blocks] == [
        f"event: {name}.partial_image".encode(),
        f"event: {name}.completed".encode(),
    ]
    common = {"created_at": 1700000000, "quality": "low"}
    assert shown == [
        {
            "type": f"{name}.partial_image",
            "b64_json": b64encode(b"half").decode(),
            "background": "auto",
            "size": "auto",
            "output_format": "png",
            "partial_image_index": 1,
            **common,
        },
        {
            "type": f"{name}.completed",
            "b64_json": b64encode(b"whole").decode(),
            "background": "opaque",
            "size": "1024x1024",
            "output_format": "webp",
            "revised_prompt": "a red fox",
            "usage": SHOWN_USAGE,
            **common,
        },
    ]


def test_an_error_in_a_stream_is_one_event() -> None:
    stream = ImagesStream("image-1", 5, parse(stream=True))
    shown = stream.error(InferenceError("upstream_error", "broken"))
    name, data = shown.strip().split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
