"""Multipart forms: however they are cut, what they hold, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from broker.errors import InferenceError
from broker.translate import wire
from broker.translate.multipart import Fields, FormReader, boundary_of, form_shaped, typed

PNG = bytes(range(256)) * 8 + b"\r\n--bound\r\r\n-"


def form(data: dict[str, Any], files: list[Any]) -> tuple[bytes, bytes]:
    """Content type and body as httpx, and with it the official library, writes them."""
    request = httpx.Request("POST", "http://x", data=data, files=files)
    return request.headers["content-type"].encode(), request.read()


def read(content_type: bytes, body: bytes, size: int = 1 << 20) -> Fields:
    boundary = boundary_of(content_type)
    assert boundary is not None
    reader = FormReader(boundary)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    return reader.close()


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_a_form_is_the_same_however_it_is_cut(size: int) -> None:
    sent = [
        ("image[]", ("ä.png", PNG, "image/png")),
        ("image[]", ("b.jpg", b"", "image/jpeg; x=1")),
        ("mask", ("m", PNG * 3)),
    ]
    found = read(*form({"prompt": "grün\r\n--", "tags[]": ["a", "b"], "n": "2"}, sent), size)
    assert found.texts == {"prompt": ["grün\r\n--"], "tags": ["a", "b"], "n": ["2"]}
    files = [(file.name, file.media_type, bytes(file.data)) for file in found.files["image"]]
    assert files == [("ä.png", "image/png", PNG), ("b.jpg", "image/jpeg", b"")]
    assert bytes(found.files["mask"][0].data) == PNG * 3


def test_a_file_is_known_by_reference_and_its_bytes_lie_beside() -> None:
    sent = [("a", ("1", PNG)), ("b", ("2", b"x")), ("a", ("3", b""))]
    found = read(*form({}, sent))
    references = [file.attachment().reference for file in (*found.files["a"], *found.files["b"])]
    assert [(reference.number, reference.size) for reference in references] == [
        (0, len(PNG)),
        (2, 0),
        (1, 1),
    ]
    assert [bytes(content) for content in found.contents] == [PNG, b"x", b""]


def test_an_extended_filename_makes_a_file() -> None:
    part = b"Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''sp%C3%A9.wav\r\n\r\nx"
    found = read(b"multipart/form-data; boundary=b", b"--b\r\n" + part + b"\r\n--b--\r\n")
    assert found.files["f"][0].name == "spé.wav"


def test_brackets_with_names_make_objects() -> None:
    texts = {"vad[type]": ["server_vad"], "vad[threshold]": ["0.5"], "provider[order]": ["a", "b"]}
    assert Fields(texts).source(_Shape) == {
        "vad": {"type": "server_vad", "threshold": 0.5},
        "provider": {"order": ["a", "b"]},
    }


@pytest.mark.parametrize("names", [("a", "a[b]"), ("a[b]", "a[b][c]"), ("a[",), ("a[b]c",)])
def test_names_that_contradict_each_other_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InferenceError):
        Fields({name: ["x"] for name in names}).source(_Shape)


class _Shape(wire.Platform):
    n: int | None = None
    stream: bool | None = None
    prompt: str = ""


def test_texts_are_read_as_the_fields_they_are_for() -> None:
    fields = Fields(
        {
            "n": ["2"],
            "stream": ["true"],
            "prompt": ["{not json"],
            "tags": ["one"],
            "provider": ['{"sort": "price"}'],
            "new": ['{"a": 1}'],
            "other": ["1"],
        }
    )
    source = fields.source(_Shape)
    asked = form_shaped(source, _Shape)
    assert typed(source, asked) == {
        "n": 2,
        "stream": True,
        "prompt": "{not json",
        "tags": ["one"],
        "provider": {"sort": "price"},
        "new": {"a": 1},
        "other": "1",
    }


@pytest.mark.parametrize(
    ("texts", "param", "code"),
    [
        ({"n": ["two"]}, "n", "invalid_type"),
        ({"stream": ["maybe"]}, "stream", "invalid_type"),
        ({"n": ["1", "2"]}, "n", "invalid_value"),
        ({"provider": ["{"]}, "provider", "invalid_value"),
    ],
)
def test_a_text_that_is_no_number_is_told(
    texts: dict[str, list[str]], param: str, code: str
) -> None:
    with pytest.raises(InferenceError) as raised:
        form_shaped(Fields(texts).source(_Shape), _Shape)
    assert (raised.value.param, raised.value.code) == (param, code)


PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        (b"multipart/form-data", PART, "boundary"),
        (b"multipart/form-data; boundary=" + b"x" * 500, PART, "oundary"),
        (b"multipart/form-data; boundary=b", b"", "ends before"),
        (b"multipart/form-data; boundary=b", PART, "ends before"),
        (b"multipart/form-data; boundary=b", b'{"a": 1}', "boundary"),
        (b"multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", "which field"),
        (
            b"multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n',
            "UTF-8",
        ),
        (b"multipart/form-data; boundary=b", PART * 1001 + b"--b--\r\n", "more than 1000"),
        (
            b"multipart/form-data; boundary=b",
            PART.replace(b"\r\nx", b"\r\n" + b"x" * (5 << 20)) + b"--b--\r\n",
            "larger than",
        ),
        (b"multipart/form-data; boundary=b", b"--b\r\n" + b"x: y\r\n" * 1000, "eader"),
    ],
)
def test_a_broken_form_is_a_400(content_type: bytes, body: bytes, said: str) -> None:
    with pytest.raises(InferenceError, match=said) as raised:
        read(content_type, body, 4096)
    assert raised.value.reason == "invalid_request"


def test_an_empty_form_has_no_fields() -> None:
    assert read(b"multipart/form-data; boundary=b", b"--b--\r\n") == Fields()
    assert boundary_of(b"application/json") is None
