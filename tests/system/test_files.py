"""The Files API over HTTP: OpenAI's own library, ranges, mistakes, and other people's files."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.keyring import Keyring
from broker.bus.objects import Objects
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack

OTHER = "mr-a-key-of-another-tenant-0123456789"
BODY = random.Random(1).randbytes(1_300_000)
LINES = b'{"custom_id": "1"}\nnot json at all\n'


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        await Keyring(stack.bus).add(OTHER, "another key", tenant="another")
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with connect(stack) as sdk:
        yield sdk


def connect(stack: Stack, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30)


async def upload(
    client: httpx.AsyncClient, data: bytes = BODY, name: str = "a.bin", **fields: str
) -> Any:
    form = {"purpose": "user_data", **fields}
    reply = await client.post("/v1/files", files={"file": (name, data)}, data=form)
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- the official library ---


async def test_the_official_library_does_all_it_can(sdk: AsyncOpenAI) -> None:
    made = await sdk.files.create(file=("lines.jsonl", LINES), purpose="batch")
    assert (made.object, made.filename, made.purpose) == ("file", "lines.jsonl", "batch")
    assert made.bytes == len(LINES)
    assert made.expires_at == made.created_at + 30 * 86_400
    ready = await sdk.files.wait_for_processing(made.id)
    assert ready.status == "processed"
    assert ready == made == await sdk.files.retrieve(made.id)
    assert (await sdk.files.content(made.id)).content == LINES
    assert made.id in [file.id async for file in sdk.files.list(purpose="batch", limit=1)]
    gone = await sdk.files.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.files.retrieve(made.id)
    assert caught.value.param == "file_id"


async def test_how_long_it_is_kept_is_up_to_the_caller(sdk: AsyncOpenAI) -> None:
    made = await sdk.files.create(
        file=("a.txt", b"a"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at == made.created_at + 3600
    kept = await sdk.files.create(file=io.BytesIO(b"b"), purpose="evals")
    assert kept.expires_at is None


async def test_a_list_is_walked_page_by_page(stack: Stack) -> None:
    async with connect(stack, OTHER) as sdk:
        made = [
            (await sdk.files.create(file=(f"{n}.txt", b"a"), purpose="vision")).id for n in range(5)
        ]
        assert [file.id async for file in sdk.files.list(limit=2, order="asc")] == made
        assert [file.id async for file in sdk.files.list(limit=2)] == made[::-1]
        page = (await sdk.files.with_raw_response.list(limit=2, after=made[4])).http_response.json()
    assert {key: page[key] for key in page if key != "data"} == {
        "object": "list",
        "first_id": made[3],
        "last_id": made[2],
        "has_more": True,
    }


# --- what is in it ---


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, None),
        ("bytes=524287-524288", 524_287, 524_289),
        ("bytes=-5", -5, None),
        ("bytes=-99999999", 0, None),
        ("bytes=1299999-99999999", 1_299_999, None),
    ],
)
async def test_any_range_of_it_can_be_read(
    client: httpx.AsyncClient, given: str, start: int, end: int | None
) -> None:
    file = await upload(client)
    reply = await client.get(f"/v1/files/{file['id']}/content", headers={"range": given})
    assert reply.status_code == 206
    assert reply.content == BODY[start:end]
    first, last, _ = slice(start, end).indices(len(BODY))
    assert reply.headers["content-range"] == f"bytes {first}-{last - 1}/{len(BODY)}"


@pytest.mark.parametrize("given", ["bytes=1300000-", "bytes=-0", "bytes=9999999-99999999"])
async def test_a_range_that_is_not_there_is_refused(client: httpx.AsyncClient, given: str) -> None:
    file = await upload(client)
    reply = await client.get(f"/v1/files/{file['id']}/content", headers={"range": given})
    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(BODY)}"
    assert reply.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("given", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes"])
async def test_what_is_no_range_is_ignored(client: httpx.AsyncClient, given: str) -> None:
    file = await upload(client, b"0123456789")
    reply = await client.get(f"/v1/files/{file['id']}/content", headers={"range": given})
    assert (reply.status_code, reply.content) == (200, b"0123456789")


async def test_a_download_that_broke_off_goes_on_if_it_is_the_same_file(
    client: httpx.AsyncClient,
) -> None:
    file = await upload(client, b"0123456789")
    path = f"/v1/files/{file['id']}/content"
    etag = (await client.get(path)).headers["etag"]
    for given, status in ((etag, 206), ('"another"', 200)):
        reply = await client.get(path, headers={"range": "bytes=5-", "if-range": given})
        assert reply.status_code == status


async def test_the_head_says_what_would_come(client: httpx.AsyncClient) -> None:
    file = await upload(client, name='ä "b"\n.html')
    path = f"/v1/files/{file['id']}/content"
    head, whole = await client.head(path), await client.get(path)
    assert head.content == b""
    assert whole.content == BODY
    same = ("content-length", "content-type", "content-disposition", "accept-ranges", "etag")
    assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["content-disposition"].startswith("attachment; ")
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = await client.head(path, headers={"range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")


async def test_an_empty_file_is_a_file(client: httpx.AsyncClient) -> None:
    file = await upload(client, b"")
    reply = await client.get(f"/v1/files/{file['id']}/content")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize("size", [1, 1000, 70_000])
async def test_a_form_may_come_in_any_order_and_in_pieces_of_any_size(
    client: httpx.AsyncClient, size: int
) -> None:
    """Without a length, and with the purpose behind the file."""
    data = BODY[: size * 20]
    form = b"".join(
        (
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n',
            data,
            b'\r\n--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
        )
    )

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), size):
            yield form[start : start + size]

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = await client.post("/v1/files", content=pieces(), headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.json()["purpose"] == "batch"
    content = await client.get(f"/v1/files/{reply.json()['id']}/content")
    assert content.content == data


# --- whose it is ---


async def test_another_key_does_not_see_it(stack: Stack, client: httpx.AsyncClient) -> None:
    file = await upload(client)
    path = f"/v1/files/{file['id']}"
    async with stack.client() as other:
        other.headers["authorization"] = f"Bearer {OTHER}"
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            reply = await other.request(method, where)
            assert reply.status_code == 404
            assert reply.json()["error"]["message"] == f"No such File object: {file['id']}"
        listed = (await other.get("/v1/files")).json()["data"]
        assert file["id"] not in [one["id"] for one in listed]
        unsigned = await other.get(path, headers={"authorization": ""})
        assert unsigned.status_code == 401
    assert (await client.get(path)).status_code == 200


# --- mistakes ---

FILE = {"file": ("a.txt", b"a")}


@pytest.mark.parametrize(
    ("files", "data", "param", "says"),
    [
        (FILE, {}, "purpose", "Missing required parameter: 'purpose'"),
        (FILE, {"purpose": "fun"}, "purpose", "'assistants', 'batch', 'fine-tune'"),
        (FILE, {"purpose": "batch_output"}, "purpose", "Supported values are"),
        (FILE, {"purpose": "batch"}, "file", "Invalid file format for Batch API. Must be .jsonl"),
        ({"purpose": (None, "batch")}, {}, "file", "Missing required parameter: 'file'"),
        ({"fool": ("a.txt", b"a")}, {"purpose": "vision"}, "fool", "Expected 'file'"),
        (
            [("file", ("a.txt", b"a")), ("file", ("b.txt", b"b"))],
            {"purpose": "vision"},
            "file",
            "twice",
        ),
        ({"file": ("a" * 600, b"a")}, {"purpose": "vision"}, "file", "512 characters"),
        *(
            (FILE, {"purpose": "vision", **expires}, f"expires_after{param}", says)
            for expires, param, says in (
                ({"expires_after[seconds]": "3600"}, ".anchor", "Missing"),
                ({"expires_after[anchor]": "created_at"}, ".seconds", "Missing"),
                (
                    {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
                    ".anchor",
                    "'created_at'",
                ),
                (
                    {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
                    ".seconds",
                    "below minimum",
                ),
                (
                    {"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"},
                    ".seconds",
                    "expected an integer",
                ),
                ({"expires_after": "soon"}, "", "expected an object"),
            )
        ),
    ],
)
async def test_a_mistake_in_the_form_is_named(
    client: httpx.AsyncClient, files: Any, data: dict[str, str], param: str, says: str
) -> None:
    before = (await client.get("/v1/files")).json()
    reply = await client.post("/v1/files", files=files, data=data)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param
    assert says in error["message"]
    assert (await client.get("/v1/files")).json() == before


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=many", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("order=up", "order"),
        ("purpose=fun", "purpose"),
    ],
)
async def test_a_mistake_in_the_query_is_named(
    client: httpx.AsyncClient, query: str, param: str
) -> None:
    reply = await client.get(f"/v1/files?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("name", ["file-", "file-*", "*", "%3E", "a%20b", "file-" + "0" * 32])
async def test_an_id_that_is_none_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
        reply = await client.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "application/json"}, b"{}", 415),
        ({}, b"", 415),
        ({"content-type": "multipart/form-data"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"garbage", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\nno name", 400),
        (
            {"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"},
            b"",
            415,
        ),
    ],
)
async def test_what_is_no_form_is_refused(
    client: httpx.AsyncClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    reply = await client.post("/v1/files", content=body, headers=headers)
    assert reply.status_code == status, reply.text


async def test_more_than_512_mib_is_refused_before_it_is_read(stack: Stack) -> None:
    port = stack.edges["edge"][0]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: multipart/form-data; boundary=x\r\ncontent-length: %d\r\n\r\n"
        % (KEY.encode(), 600 << 20)
    )
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


# --- uploads ---


async def test_the_official_library_uploads_in_parts(sdk: AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(BODY)
    upload = await sdk.uploads.upload_file_chunked(
        file=path,
        mime_type="application/jsonl",
        purpose="batch",
        part_size=600_000,
        md5=hashlib.md5(BODY).hexdigest(),
    )
    assert (upload.status, upload.bytes, upload.filename) == ("completed", len(BODY), path.name)
    file = upload.file
    assert file is not None
    assert (file.bytes, file.purpose, file.status) == (len(BODY), "batch", "processed")
    assert file.expires_at == file.created_at + 30 * 86_400
    assert await sdk.files.retrieve(file.id) == file
    assert (await sdk.files.content(file.id)).content == BODY
    part = await sdk.files.with_raw_response.content(
        file.id, extra_headers={"range": "bytes=599990-600010"}
    )
    assert part.content == BODY[599_990:600_011]
    await sdk.files.delete(file.id)


async def begun(client: httpx.AsyncClient, **fields: Any) -> Any:
    body = {"bytes": 6, "filename": "a.txt", "mime_type": "text/plain", "purpose": "vision"}
    reply = await client.post("/v1/uploads", json={**body, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def part(client: httpx.AsyncClient, upload: Any, data: bytes) -> str:
    where = f"/v1/uploads/{upload['id']}/parts"
    reply = await client.post(where, files={"data": ("blob", data)})
    assert reply.status_code == 200, reply.text
    assert reply.json()["object"] == "upload.part"
    return str(reply.json()["id"])


async def completed(client: httpx.AsyncClient, upload: Any, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/uploads/{upload['id']}/complete", json=body)


async def test_parts_are_in_the_order_that_is_asked_for(client: httpx.AsyncClient) -> None:
    upload = await begun(client)
    assert {**upload, "id": "", "created_at": 0, "expires_at": 3600} == {
        "id": "",
        "object": "upload",
        "bytes": 6,
        "created_at": 0,
        "expires_at": 3600,
        "filename": "a.txt",
        "purpose": "vision",
        "status": "pending",
        "file": None,
    }
    assert upload["expires_at"] == upload["created_at"] + 3600
    two, one, _unused = [await part(client, upload, data) for data in (b"two", b"one", b"three")]
    made = (await completed(client, upload, part_ids=[one, two])).json()
    assert made["status"] == "completed"
    path = f"/v1/files/{made['file']['id']}"
    assert (await client.get(f"{path}/content")).content == b"onetwo"
    # Asked again, it is the same file, and nothing can be added or taken back.
    assert (await completed(client, upload, part_ids=[one, two])).json() == made
    data = {"data": ("blob", b"x")}
    for where, files in (("cancel", None), ("parts", data)):
        reply = await client.post(f"/v1/uploads/{upload['id']}/{where}", files=files)
        assert reply.status_code == 400
        assert "is completed" in reply.json()["error"]["message"]
    assert (await client.get(path)).status_code == 200


async def test_two_who_complete_at_once_make_one_file(client: httpx.AsyncClient) -> None:
    upload = await begun(client)
    ids = [await part(client, upload, data) for data in (b"two", b"one")]
    replies = await asyncio.gather(
        *(completed(client, upload, part_ids=order) for order in (ids, ids[::-1]) * 3)
    )
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["file"]["id"] for reply in replies}) == 1


async def test_an_upload_that_is_cancelled_leaves_nothing(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    upload = await begun(client)
    objects = Objects(stack.bus)
    before = set(await objects.names("files"))
    one = await part(client, upload, b"sixsix")
    assert set(await objects.names("files")) != before
    path = f"/v1/uploads/{upload['id']}/cancel"
    assert (await client.post(path)).json()["status"] == "cancelled"
    assert set(await objects.names("files")) == before
    assert (await client.post(path)).json()["status"] == "cancelled"
    reply = await completed(client, upload, part_ids=[one])
    assert reply.status_code == 400
    assert "is cancelled" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": None}, "bytes"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": (8 << 30) + 1}, "bytes"),
        ({"bytes": "six"}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": "a.txt", "purpose": "batch"}, "filename"),
        ({"mime_type": 1}, "mime_type"),
        ({"purpose": "fun"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
    ],
)
async def test_a_mistake_in_an_upload_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = {"bytes": 6, "filename": "a.txt", "mime_type": "text/plain", "purpose": "vision"}
    reply = await client.post("/v1/uploads", json={**body, **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "part_ids"),
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": ["one", "one"]}, "part_ids"),
        ({"part_ids": ["one"]}, "part_ids"),  # it has too few bytes
        ({"part_ids": ["one", "part_" + "0" * 32]}, "part_ids[1]"),
        ({"part_ids": ["one", "*"]}, "part_ids[1]"),
        ({"part_ids": ["one", "two"], "md5": "short"}, "md5"),
        ({"part_ids": ["one", "two"], "md5": "0" * 32}, "md5"),
    ],
)
async def test_what_does_not_complete_an_upload_says_why(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    upload = await begun(client)
    made = {name: await part(client, upload, name.encode()) for name in ("one", "two")}
    if "part_ids" in body:
        body = {**body, "part_ids": [made.get(name, name) for name in body["part_ids"]]}
    reply = await completed(client, upload, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    # It can still be completed.
    reply = await completed(client, upload, part_ids=list(made.values()))
    assert reply.json()["status"] == "completed"


async def test_an_upload_is_its_owners_alone(stack: Stack, client: httpx.AsyncClient) -> None:
    upload = await begun(client)
    one = await part(client, upload, b"sixsix")
    async with stack.client() as other:
        other.headers["authorization"] = f"Bearer {OTHER}"
        path = f"/v1/uploads/{upload['id']}"
        for reply in (
            await other.post(f"{path}/parts", files={"data": ("blob", b"x")}),
            await completed(other, upload, part_ids=[one]),
            await other.post(f"{path}/cancel"),
        ):
            assert (reply.status_code, reply.json()["error"]["param"]) == (404, "upload_id")
        # Nor can parts be taken from another's upload.
        mine = await begun(other)
        reply = await completed(other, mine, part_ids=[one])
        assert reply.status_code == 400
    assert (await completed(client, upload, part_ids=[one])).status_code == 200
