"""A file on its way in: bounded, counted as it comes, and given up when nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Message, Receive

from broker.errors import InferenceError
from edge.http.body import ClientGoneError
from edge.http.incoming import IncomingFile

HEAD = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"
LIMIT = 1000


def received(parts: Iterable[bytes], *, ends: bool = True, leaves: bool = False) -> Receive:
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if leaves:
        messages.append({"type": "http.disconnect"})
    elif ends:
        messages[-1]["more_body"] = False

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return receive


async def read(receive: Receive, **headers: str) -> bytes:
    given = {"content-type": "multipart/form-data; boundary=x", **headers}
    incoming = IncomingFile(
        {name.replace("_", "-").encode(): value.encode() for name, value in given.items()},
        receive,
        field="file",
        limit=LIMIT,
        patience_s=0.2,
    )
    try:
        await incoming.begin()
        data = b"".join([some async for some in incoming.chunks()])
        incoming.end()
        return data
    finally:
        incoming.close()


async def refused(receive: Receive, **headers: str) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await read(receive, **headers)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_file_up_to_the_limit_comes_whole(size: int) -> None:
    data = b"-\r\n" * size
    data = data[:size]
    form = HEAD + data + TAIL
    assert await read(received([form])) == data
    assert await read(received([form[n : n + 1] for n in range(len(form))])) == data


async def test_one_byte_more_is_too_large() -> None:
    error = await refused(received([HEAD, b"a" * (LIMIT + 1), TAIL]))
    assert (error.reason, error.param) == ("request_too_large", "file")


async def test_its_length_alone_may_refuse_it() -> None:
    def never() -> Any:
        raise AssertionError("nothing was to be read")

    error = await refused(never, content_length=str(3 << 20))
    assert error.reason == "request_too_large"


@pytest.mark.parametrize(
    "beside",
    [
        [b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n', *[b"a" * 100_000] * 12],
        [b"--x\r\nx: ", *[b"a" * 100_000] * 12],
        [b"\r\n" * 700_000],
    ],
)
async def test_what_is_beside_the_file_is_bounded_too(beside: list[bytes]) -> None:
    assert (await refused(received(beside, ends=False))).row.http in {400, 413}


async def test_who_sends_nothing_any_more_is_told() -> None:
    error = await refused(received([HEAD, b"a"], ends=False))
    assert error.reason == "deadline"


async def test_who_leaves_is_not_waited_for() -> None:
    with pytest.raises(ClientGoneError):
        await read(received([HEAD, b"a"], leaves=True))


@pytest.mark.parametrize("form", [HEAD + b"a", HEAD, HEAD + b"a\r\n--x\r\n", b"--x--\r\n", b"a"])
async def test_a_form_that_breaks_off_is_no_file(form: bytes) -> None:
    assert (await refused(received([form]))).row.http == 400
