"""Images on the wire of each provider: what is sent, what its answers mean."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.operations import IMAGE
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers import pictures
from workers.emulation.media import copied, put, unread
from workers.emulation.plan import Plan, plan_of
from workers.provider import Call, Detached, Provider, Unreadable
from workers.registry import provider as provider_of

PNG = b"\x89PNG\r\n\x1a\n one"
JPEG = b"\xff\xd8\xff two"
TEXT = b64encode(PNG).decode()
DATA_URL = f"data:image/png;base64,{TEXT}"


def asked(model: str = "m", **fields: Any) -> generation_pb2.Request:
    return generation_pb2.Request(
        image=operations_pb2.ImageRequest(model=model, prompt="a fox", **fields)
    )


def bytes_of(data: bytes = PNG) -> operations_pb2.Attachment:
    return operations_pb2.Attachment(data=data)


def call_of(provider: str, model: str = "m", **fields: Any) -> Call:
    found = provider_of(provider)
    return found.dialect_for(model, IMAGE).call(asked(**fields), model, found)


def answered(
    provider: str, body: Any, model: str = "m", size: int = 1 << 20, **fields: Any
) -> list[event_pb2.Event]:
    found = provider_of(provider)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    decoder = found.dialect_for(model, IMAGE).decoder(asked(**fields), {"x-request-id": "up"})
    events: list[event_pb2.Event] = []
    for at in range(0, len(data), size):
        events += decoder.feed(data[at : at + size])
    return [*events, *decoder.close()]


def files_of(call: Call) -> list[tuple[str, str, str, bytes]]:
    """Name, file name, media type and bytes of each file of a form."""
    return [
        (name, value.filename, value.media_type, value.data)
        for name, value in call.form
        if not isinstance(value, str)
    ]


# Provider, model, fields, path, body beside model and prompt, what is dropped.
SENT: list[tuple[str, str, dict[str, Any], str, dict[str, Any], tuple[str, ...]]] = [
    (
        "openai",
        "gpt-image-2",
        {"n": 2, "size": "1024x1024", "quality": "high", "response_format": "b64_json"},
        "/images/generations",
        {"model": "gpt-image-2", "n": 2, "size": "1024x1024", "quality": "high"},
        (),
    ),
    (
        "openai",
        "gpt-image-2",
        {"stream": True, "partial_images": 2, "response_format": "url"},
        "/images/generations",
        {"model": "gpt-image-2", "stream": True, "partial_images": 2},
        ("response_format",),
    ),
    (
        "openai",
        "dall-e-3",
        {"style": "vivid", "response_format": "url", "extra": {"x": b"[1]"}},
        "/images/generations",
        {"model": "dall-e-3", "style": "vivid", "response_format": "url", "x": [1]},
        (),
    ),
    (
        "xai",
        "grok-imagine-image",
        {"n": 2, "size": "1536x864", "quality": "high", "response_format": "b64_json"},
        "/images/generations",
        {
            "model": "grok-imagine-image",
            "n": 2,
            "aspect_ratio": "16:9",
            "response_format": "b64_json",
        },
        ("quality",),
    ),
    (
        "xai",
        "grok-imagine-image",
        {"images": [bytes_of(), operations_pb2.Attachment(url="https://x/a.png")]},
        "/images/edits",
        {
            "model": "grok-imagine-image",
            "images": [
                {"type": "image_url", "url": DATA_URL},
                {"type": "image_url", "url": "https://x/a.png"},
            ],
        },
        (),
    ),
    (
        "together_ai",
        "flux",
        {"size": "640x480", "n": 3, "response_format": "b64_json", "user": "u"},
        "/images/generations",
        {"model": "flux", "width": 640, "height": 480, "n": 3, "response_format": "base64"},
        ("user",),
    ),
    (
        "together_ai",
        "flux",
        {"images": [bytes_of()], "size": "auto"},
        "/images/generations",
        {"model": "flux", "image_url": DATA_URL},
        (),
    ),
    (
        "openrouter",
        "x/y",
        {"images": [bytes_of()], "size": "2048x2048", "background": "opaque"},
        "/images",
        {
            "model": "x/y",
            "size": "2048x2048",
            "background": "opaque",
            "input_references": [{"type": "image_url", "image_url": {"url": DATA_URL}}],
        },
        (),
    ),
    (
        "fireworks",
        "accounts/fireworks/models/flux-1-schnell-fp8",
        {"size": "1024x1536", "quality": "high", "extra": {"seed": b"7"}},
        "/workflows/accounts/fireworks/models/flux-1-schnell-fp8/text_to_image",
        {"aspect_ratio": "2:3", "seed": 7},
        ("quality",),
    ),
]


@pytest.mark.parametrize("row", SENT, ids=lambda row: f"{row[0]} {row[3]}")
def test_a_request_goes_out_as_the_provider_knows_it(
    row: tuple[str, str, dict[str, Any], str, dict[str, Any], tuple[str, ...]],
) -> None:
    provider, model, fields, path, body, dropped = row
    call = call_of(provider, model, **fields)
    assert call.path == path
    assert json.loads(call.body) == {"prompt": "a fox", **body}
    assert call.dropped == dropped


def test_an_edit_with_a_mask_goes_to_openai_as_a_form() -> None:
    images = [bytes_of(), operations_pb2.Attachment(data=JPEG, filename="b.jpg")]
    call = call_of(
        "openai",
        "gpt-image-2",
        images=images,
        mask=bytes_of(b"\x89PNG\r\n\x1a\n mask"),
        n=2,
        extra={"complexity": b'"low"'},
    )
    assert call.path == "/images/edits"
    assert {name: value for name, value in call.form if isinstance(value, str)} == {
        "model": "gpt-image-2",
        "prompt": "a fox",
        "complexity": "low",
        "n": "2",
    }
    first, second, mask = files_of(call)
    assert first == ("image[]", "image.png", "image/png", PNG)
    assert second == ("image[]", "b.jpg", "image/jpeg", JPEG)
    assert (mask[0], mask[3][-4:]) == ("mask", b"mask")
    one = call_of("openai", "gpt-image-2", images=images[:1])
    assert files_of(one)[0][0] == "image"


def test_files_at_the_edge_stay_there_where_a_form_takes_them() -> None:
    there = operations_pb2.Attachment(
        media_type="image/png", reference=operations_pb2.AttachmentReference(number=1, size=9)
    )
    call = call_of("openai", "gpt-image-2", images=[there])
    _, file = call.form[-1]
    assert not isinstance(file, str)
    assert (file.reference.number, file.filename) == (1, "image.png")
    for provider in ("xai", "gemini", "bedrock"):
        with pytest.raises(Detached):
            call_of(provider, "amazon.nova-canvas-v1:0", images=[there])


def test_pictures_by_address_or_id_go_to_openai_as_json() -> None:
    images = [
        operations_pb2.Attachment(url="https://x/a.png"),
        operations_pb2.Attachment(file_id="file-1"),
        bytes_of(),
    ]
    call = call_of("openai", "gpt-image-2", images=images, mask=bytes_of())
    assert json.loads(call.body) == {
        "model": "gpt-image-2",
        "prompt": "a fox",
        "images": [
            {"image_url": "https://x/a.png"},
            {"file_id": "file-1"},
            {"image_url": DATA_URL},
        ],
        "mask": {"image_url": DATA_URL},
    }


def test_a_variation_has_a_path_of_its_own() -> None:
    call = call_of("openai", "dall-e-2", images=[bytes_of()], variation=True)
    assert call.path == "/images/variations"
    with pytest.raises(InferenceError, match="variations"):
        call_of("xai", "m", images=[bytes_of()], variation=True)


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("https://r.openai.azure.com", "/openai/v1/images/generations"),
        ("https://r.openai.azure.com/openai/v1", "/images/generations"),
    ],
)
def test_azure_has_them_where_its_other_calls_are(base_url: str, path: str) -> None:

    azure = provider_of("azure")
    assert azure.configure is not None
    made: Provider = azure.configure(replace(azure, base_url=base_url))
    assert made.operations[IMAGE].call(asked(), "dep", made).path == path


@pytest.mark.parametrize(
    ("provider", "fields", "param"),
    [
        ("xai", {"images": [bytes_of()], "mask": bytes_of()}, "mask"),
        ("xai", {"images": [bytes_of()] * 4}, "image"),
        ("gemini", {"images": [bytes_of()], "mask": bytes_of()}, "mask"),
        ("bedrock", {"images": [bytes_of()], "mask": bytes_of()}, "mask"),
        ("fireworks", {"images": [bytes_of()]}, "image"),
        ("xai", {"images": [operations_pb2.Attachment(file_id="f")]}, "image"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_field(
    provider: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InferenceError) as raised:
        call_of(provider, "amazon.nova-canvas-v1:0", **fields)
    assert raised.value.row.http == 400
    assert raised.value.param == param


def test_what_is_left_out_can_be_forbidden() -> None:
    for provider in ("openai", "gemini", "fireworks", "bedrock"):
        found = provider_of(provider)
        request = asked(response_format="url")
        request.platform.drop_params = False
        model = "amazon.nova-canvas-v1:0"
        with pytest.raises(InferenceError) as raised:
            found.operations[IMAGE].call(request, model, found)
        assert raised.value.param == "response_format"


# --- answers -----------------------------------------------------------------------------------

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"text_tokens": 7, "image_tokens": 3},
    "output_tokens": 272,
    "total_tokens": 282,
}


def shown(events: list[event_pb2.Event]) -> list[tuple[int, int, bytes, str]]:
    return [
        (event.image.choice, event.image.item, event.image.image.data, event.image.url)
        for event in events
        if event.HasField("image") and not event.image.partial
    ]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_openais_answer_is_pictures_facts_and_usage(size: int) -> None:
    body = {
        "created": 1700000000,
        "data": [{"b64_json": TEXT}, {"url": "https://x/b.png", "revised_prompt": "red"}],
        "background": "opaque",
        "quality": "high",
        "usage": USAGE,
    }
    events = answered("openai", body, size=size)
    assert events[0].started.created == 1700000000
    assert events[0].started.upstream_request_id == "up"
    assert (events[1].image_facts.background, events[1].image_facts.quality) == ("opaque", "high")
    assert shown(events) == [(0, 0, PNG, ""), (0, 1, b"", "https://x/b.png")]
    assert events[2].image.image.media_type == "image/png"
    assert events[3].image.revised_prompt == "red"
    usage = events[-1].completed.usage
    assert (usage.input_tokens, usage.input_image_tokens) == (7, 3)
    assert (usage.output_tokens, usage.output_image_tokens, usage.images) == (0, 272, 2)


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("xai", {"data": [{"b64_json": TEXT, "mime_type": "image/png"}], "usage": {"x": 1}}),
        ("together_ai", {"id": "i", "object": "list", "data": [{"index": 0, "b64_json": TEXT}]}),
        ("openrouter", {"created": 0, "data": [{"b64_json": TEXT, "media_type": "image/png"}]}),
        ("fireworks", {"id": "i", "base64": [DATA_URL], "finishReason": "SUCCESS", "seed": 1}),
    ],
)
def test_answers_without_half_of_it_are_answers(provider: str, body: Any) -> None:
    events = answered(provider, body)
    assert shown(events) == [(0, 0, PNG, "")]
    assert events[-1].completed.usage.images == 1


def sse(*events: dict[str, Any], crlf: bool = False) -> bytes:
    text = "".join(f"event: {e.get('type')}\ndata: {json.dumps(e)}\n\n" for e in events)
    return (text.replace("\n", "\r\n") if crlf else text).encode()


PARTIAL = {
    "type": "image_generation.partial_image",
    "b64_json": b64encode(JPEG).decode(),
    "created_at": 1700000000,
    "partial_image_index": 0,
    "size": "1024x1024",
}
COMPLETED = {"type": "image_generation.completed", "b64_json": TEXT, "usage": USAGE}


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("crlf", [False, True])
def test_a_stream_has_pictures_on_the_way(size: int, crlf: bool) -> None:
    body = sse(PARTIAL, {"type": "image_generation.new"}, COMPLETED, crlf=crlf)
    events = answered("openai", body, size=size, stream=True, partial_images=1)
    assert events[0].started.created == 1700000000
    [partial] = [e.image for e in events if e.HasField("image") and e.image.partial]
    assert (partial.partial_index, partial.image.data) == (0, JPEG)
    assert shown(events) == [(0, 0, PNG, "")]
    assert events[-1].completed.usage.output_image_tokens == 272


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sse(PARTIAL), "upstream_incomplete"),
        (sse(PARTIAL, {"type": "error", "error": {"message": "m", "type": "server_error"}}), "upstream_error"),
        (sse({"error": {"message": "m", "code": "rate_limit_exceeded"}}), "upstream_rate_limit"),
        (sse({"error": {"message": "m", "code": "moderation_blocked"}}), "content_policy_violation"),
        (sse({**PARTIAL, "b64_json": "*"}), "upstream_error"),
        (b"data: {\n\n", "upstream_error"),
        (b"", "upstream_incomplete"),
        (b"<html>", "upstream_error"),
        (b'{"created": 1, "data": []}', "upstream_error"),
        (b'{"data": [{"b64_json": "***"}]}', "upstream_error"),
        (b'{"data": [{}]}', "upstream_error"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_an_error(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as raised:
        answered("openai", body, stream=True)
    assert raised.value.reason == reason


# --- Gemini ------------------------------------------------------------------------------------


def test_gemini_is_asked_for_content_with_a_picture() -> None:
    call = call_of(
        "gemini",
        "gemini-3-pro-image",
        images=[bytes_of()],
        size="2048x1152",
        quality="high",
        output_format="png",
    )
    assert call.path == "/v1beta/models/gemini-3-pro-image:generateContent"
    body = json.loads(call.body)
    assert body["contents"] == [
        {
            "role": "user",
            "parts": [{"inlineData": {"mimeType": "image/png", "data": TEXT}}, {"text": "a fox"}],
        }
    ]
    config = body["generationConfig"]
    assert config["responseModalities"] == ["IMAGE"]
    assert config["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}
    assert set(call.dropped) == {"quality", "output_format"}


def test_vertex_chooses_the_format_and_the_first_generation_has_one_size() -> None:
    call = call_of(
        "vertex_ai", "gemini-2.5-flash-image", size="1024x1536", output_format="jpeg",
        output_compression=80,
    )  # fmt: skip
    assert json.loads(call.body)["generationConfig"]["imageConfig"] == {
        "aspectRatio": "2:3",
        "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 80},
    }


def candidate(*parts: dict[str, Any], finish: str = "STOP") -> dict[str, Any]:
    return {
        "candidates": [
            {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}
        ],
        "usageMetadata": {
            "promptTokenCount": 5,
            "candidatesTokenCount": 1300,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
            "totalTokenCount": 1305,
        },
        "modelVersion": "gemini-2.5-flash-image",
        "responseId": "r1",
    }


def test_geminis_words_are_left_out_and_its_tokens_counted() -> None:
    body = candidate(
        {"text": "Here it is"}, {"inlineData": {"mimeType": "image/png", "data": TEXT}}
    )
    events = answered("gemini", body)
    assert [event.WhichOneof("kind") for event in events] == ["started", "image", "completed"]
    assert shown(events) == [(0, 0, PNG, "")]
    usage = events[-1].completed.usage
    assert (usage.input_tokens, usage.output_tokens, usage.output_image_tokens) == (5, 10, 1290)


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        (candidate({"text": "I will not"}), "upstream_error", "I will not"),
        (candidate(finish="IMAGE_SAFETY"), "content_policy_violation", "filter"),
        (
            {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 1}},
            "content_policy_violation",
            "filter",
        ),
    ],
)
def test_gemini_that_draws_nothing_has_failed(body: Any, reason: str, said: str) -> None:
    with pytest.raises(InferenceError, match=said) as raised:
        answered("gemini", body)
    assert raised.value.reason == reason


# --- Bedrock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "body"),
    [
        (
            "amazon.nova-canvas-v1:0",
            {"n": 2, "size": "512x768", "quality": "high"},
            {
                "taskType": "TEXT_IMAGE",
                "textToImageParams": {"text": "a fox"},
                "imageGenerationConfig": {
                    "numberOfImages": 2,
                    "width": 512,
                    "height": 768,
                    "quality": "premium",
                },
            },
        ),
        (
            "amazon.titan-image-generator-v2:0",
            {"images": [bytes_of()]},
            {
                "taskType": "IMAGE_VARIATION",
                "imageVariationParams": {"images": [TEXT], "text": "a fox"},
                "imageGenerationConfig": {"numberOfImages": 1},
            },
        ),
        (
            "stability.sd3-5-large-v1:0",
            {"size": "1024x1536", "output_format": "jpeg", "extra": {"seed": b"3"}},
            {
                "prompt": "a fox",
                "mode": "text-to-image",
                "aspect_ratio": "2:3",
                "output_format": "JPEG",
                "seed": 3,
            },
        ),
    ],
)
def test_each_family_of_bedrock_has_a_body_of_its_own(
    model: str, fields: dict[str, Any], body: dict[str, Any]
) -> None:
    call = call_of("bedrock", model, **fields)
    assert call.path == f"/model/{model.replace(':', '%3A')}/invoke"
    assert json.loads(call.body) == body


def test_bedrocks_answers_are_pictures_or_a_filter() -> None:
    model = "amazon.nova-canvas-v1:0"
    assert shown(answered("bedrock", {"images": [TEXT, TEXT]}, model)) == [
        (0, 0, PNG, ""),
        (0, 1, PNG, ""),
    ]
    for body in (
        {"images": [], "error": "blocked"},
        {"images": [TEXT], "finish_reasons": ["Filter reason: prompt"]},
    ):
        with pytest.raises(InferenceError) as raised:
            answered("bedrock", body, model)
        assert raised.value.reason == "content_policy_violation"
    with pytest.raises(InferenceError, match="draws no images"):
        call_of("bedrock", "deepseek.v3.2")


# --- around the dialects -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "n", "calls"),
    [
        ("openai", "m", 4, None),
        ("gemini", "m", 1, None),
        ("gemini", "m", 3, 3),
        ("bedrock", "amazon.nova-canvas-v1:0", 5, None),
        ("bedrock", "stability.sd3-5-large-v1:0", 2, 2),
    ],
)
def test_one_call_each_where_a_call_gives_one_picture(
    provider: str, model: str, n: int, calls: int | None
) -> None:
    plan = plan_of(asked(n=n), model, provider_of(provider))
    assert (plan.calls if isinstance(plan, Plan) else None) == calls
    if isinstance(plan, Plan):
        assert not plan.request.image.HasField("n")


def test_pictures_that_are_addresses_are_fetched_where_bytes_are_wanted() -> None:
    request = copied(
        asked(
            images=[operations_pb2.Attachment(url="https://x/a.png"), bytes_of()],
        )
    )
    bedrock = provider_of("bedrock")
    dialect = bedrock.operations[IMAGE]
    with pytest.raises(Unreadable) as raised:
        dialect.call(request, "amazon.nova-canvas-v1:0", bedrock)
    [address] = unread(request, raised.value.reads)
    assert (address.url, address.path) == ("https://x/a.png", "images[0].image_url")
    put(address, JPEG)
    body = json.loads(dialect.call(request, "amazon.nova-canvas-v1:0", bedrock).body)
    assert body["imageVariationParams"]["images"][0] == b64encode(JPEG).decode()


@pytest.mark.parametrize(
    ("size", "ratio"),
    [("1024x1024", "1:1"), ("1792x1024", "16:9"), ("1024x1536", "2:3"), ("auto", None), ("", None)],
)
def test_sizes_become_the_nearest_ratio(size: str, ratio: str | None) -> None:
    assert pictures.nearest_ratio(size, ("1:1", "2:3", "3:2", "16:9", "9:16")) == ratio
