"""Images and files that are given by their addresses, where the provider wants the bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from broker.errors import InferenceError
from broker.settings import FetchSettings
from broker.v1 import content_pb2, generation_pb2
from tests.workers.emulation.upstream import Chat, ask, attempt
from tests.workers.upstream.peer import CERTIFICATE
from workers import fetch
from workers.emulation.addresses import is_public
from workers.fetch import Fetcher
from workers.mediatypes import sniff
from workers.provider import Unreadable

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 20
GIF = b"GIF89a" + b"\0" * 20
WEBP = b"RIFF\0\0\0\0WEBP" + b"\0" * 20
PDF = b"%PDF-1.7 " + b"\0" * 20
HERE = FetchSettings(allow_private=True)


@dataclass
class Site:
    """Web server that answers what `answer` says; an int is a pause in seconds."""

    answer: Callable[[web.Request], Any]
    asked: list[web.Request] = field(default_factory=list)
    url: str = ""
    port: int = 0

    @contextlib.asynccontextmanager
    async def serve(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._reply)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        said = self.answer(request)
        if asyncio.iscoroutine(said):
            said = await said
        if isinstance(said, bytes):
            # What the server says of it counts for nothing.
            return web.Response(body=said, content_type="text/html")
        assert isinstance(said, web.StreamResponse)
        return said


def image(*urls: str) -> generation_pb2.Request:
    request = ask()
    for url in urls:
        request.generate.messages[0].parts.add().image.url = url
    return request


async def fetched(
    request: generation_pb2.Request, settings: FetchSettings = HERE
) -> generation_pb2.Request:
    fetcher = Fetcher(settings)
    try:
        return await fetcher.inline(request, Unreadable("as bytes", param="p"))
    finally:
        await fetcher.close()


async def refused(request: generation_pb2.Request, settings: FetchSettings = HERE) -> str:
    with pytest.raises(InferenceError) as caught:
        await fetched(request, settings)
    assert caught.value.reason == "invalid_request"
    assert caught.value.param == "messages[0].content[1].image_url"
    return caught.value.message


def redirect(to: str) -> web.Response:
    return web.Response(status=302, headers={"location": to})


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        *((PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")),
        *((PDF, "application/pdf"), (b"<html>", ""), (b"RIFF....WAVE", ""), (b"", "")),
    ],
)
def test_media_are_known_by_their_first_bytes(data: bytes, kind: str) -> None:
    assert sniff(data) == kind


@pytest.mark.parametrize("text", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("198.18.0.1", "192.0.2.1", "::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1"),
        *("::7f00:1", "64:ff9b::7f00:1", "64:ff9b::808:808", "2002:7f00:1::", "2001::1"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "not an address", ""),
    ],
)
def test_all_others_are_not(text: str) -> None:
    assert not is_public(text)


async def test_images_are_sent_along_in_their_places() -> None:
    found = {"/a": PNG, "/b": JPEG}
    async with Site(lambda r: found[r.path]).serve() as site:
        got = await fetched(image(site.url + "/a", "gs://bucket/c", site.url + "/b"))
    parts = got.generate.messages[0].parts
    assert [part.image.inline.media_type for part in parts] == ["", "image/png", "", "image/jpeg"]
    assert [part.image.inline.data for part in parts] == [b"", PNG, b"", JPEG]
    assert parts[2].image.url == "gs://bucket/c"


async def test_a_file_keeps_the_name_that_its_address_ends_with() -> None:
    async with Site(lambda _: PDF).serve() as site:
        request = ask()
        request.generate.messages[0].parts.add().file.url = f"{site.url}/x/terms.pdf?v=1/2"
        got = await fetched(request)
    file = got.generate.messages[0].parts[1].file
    assert (file.filename, file.inline.media_type) == ("terms.pdf", "application/pdf")
    assert file.inline.data == PDF


async def test_images_in_the_result_of_a_tool_are_fetched_too() -> None:
    async with Site(lambda _: GIF).serve() as site:
        request = ask()
        result = request.generate.messages.add(role=5).parts.add().tool_result
        result.parts.add().image.url = site.url
        got = await fetched(request)
    part = got.generate.messages[1].parts[0].tool_result.parts[0]
    assert part.image.inline.media_type == "image/gif"


async def test_what_is_no_image_is_refused_whatever_its_server_says() -> None:
    def said(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>", content_type="image/png")

    async with Site(said).serve() as site:
        assert "no image at this address" in await refused(image(site.url))


async def test_what_is_too_large_is_not_read_to_its_end() -> None:
    sent = 0

    async def said(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        reply = web.StreamResponse()
        await reply.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                await reply.write(PNG * 1000)
                sent += len(PNG) * 1000
        return reply

    async with Site(said).serve() as site:
        settings = FetchSettings(allow_private=True, max_bytes=100_000)
        assert "larger than 100000 bytes" in await refused(image(site.url), settings)
    assert sent < 20_000_000


async def test_all_images_of_a_request_share_the_limit() -> None:
    async with Site(lambda _: PNG * 10).serve() as site:
        settings = FetchSettings(allow_private=True, max_bytes=500)
        await fetched(image(site.url), settings)
        with pytest.raises(InferenceError, match="larger than 500 bytes"):
            await fetched(image(site.url, site.url), settings)


async def test_a_server_that_takes_too_long_is_given_up() -> None:
    async def said(_: web.Request) -> bytes:
        await asyncio.sleep(30)
        return PNG

    async with Site(said).serve() as site:
        settings = FetchSettings(allow_private=True, timeout_s=0.2)
        async with asyncio.timeout(5):
            assert "longer than 0.2 s" in await refused(image(site.url), settings)


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_an_error_of_the_server_is_told(status: int) -> None:
    async with Site(lambda _: web.Response(status=status)).serve() as site:
        assert f"status {status}" in await refused(image(site.url))


async def test_redirects_are_followed_three_times_and_no_more() -> None:
    def said(request: web.Request) -> Any:
        left = int(request.path[1:])
        return redirect(f"/{left - 1}") if left else PNG

    async with Site(said).serve() as site:
        await fetched(image(f"{site.url}/3"))
        assert "redirects more than 3 times" in await refused(image(f"{site.url}/4"))


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/"])
async def test_a_redirect_to_something_else_than_http_is_not_followed(place: str) -> None:
    async with Site(lambda _: redirect(place)).serve() as site:
        assert "else than http" in await refused(image(site.url))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433"])
async def test_private_hosts_are_not_asked_unless_the_operator_allows_it(host: str) -> None:
    async with Site(lambda _: PNG).serve() as site:
        url = f"http://{host}:{site.port}/a.png"
        assert "not on the public internet" in await refused(image(url), FetchSettings())
        assert site.asked == []
        await fetched(image(url))
        assert len(site.asked) == 1


async def test_every_hop_of_a_redirect_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    async with Site(lambda _: redirect(f"http://127.0.0.2:{site.port}/")).serve() as site:
        assert "not on the public internet" in await refused(image(site.url), FetchSettings())
        assert len(site.asked) == 1


class Resolver:
    """Answers each question about a name with the next list of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]


async def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    async with Site(lambda _: PNG).serve() as site:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
        await fetched(image(f"http://images.example:{site.port}/a.png"), FetchSettings())
    assert resolver.asked == ["images.example"]
    assert [request.host for request in site.asked] == [f"images.example:{site.port}"]


async def test_a_name_with_one_private_address_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(["93.184.216.34", "10.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
    message = await refused(image("http://images.example/a.png"), FetchSettings())
    assert "not on the public internet" in message


async def test_the_next_address_is_tried_when_one_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(["127.0.0.9", "127.0.0.1"])
    async with Site(lambda _: PNG).serve() as site:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
        await fetched(image(f"http://images.example:{site.port}/"))
    assert len(site.asked) == 1


async def test_certificates_are_checked_against_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "both.pem"
    path.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    resolver = Resolver(["127.0.0.1"], ["127.0.0.1"])
    async with Site(lambda _: PNG).serve(context) as site:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
        await fetched(image(f"https://provider.test:{site.port}/a.png"))
        await refused(image(f"https://another.test:{site.port}/a.png"))
    assert len(site.asked) == 1


async def test_a_provider_that_wants_bytes_gets_the_image() -> None:
    async with Site(lambda _: PNG).serve() as site, Chat(lambda _: "a cat").serve() as chat:
        got = await attempt("ollama", chat.url, image(f"{site.url}/cat.png"))
    assert got.text() == "a cat"
    data = base64.b64encode(PNG).decode()
    assert chat.bodies[0]["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{data}"},
    }


async def test_one_image_of_several_answers_is_fetched_once() -> None:
    async with Site(lambda _: PNG).serve() as site, Chat(lambda _: "a cat").serve() as chat:
        request = image(f"{site.url}/cat.png")
        request.generate.n = 3
        await attempt("ollama", chat.url, request)
    assert len(chat.bodies) == 3
    assert len(site.asked) == 1


async def test_a_provider_that_reads_addresses_gets_the_address() -> None:
    async with Chat(lambda _: "a cat").serve() as chat:
        await attempt("mistral", chat.url, image("http://127.0.0.1:1/cat.png"))
    assert chat.bodies[0]["messages"][0]["content"][1]["image_url"] == {
        "url": "http://127.0.0.1:1/cat.png"
    }


async def test_a_provider_that_reads_addresses_of_images_alone_gets_the_file() -> None:
    async with Site(lambda _: PDF).serve() as site, Chat(lambda _: "terms").serve() as chat:
        request = image("http://127.0.0.1:1/cat.png")
        request.generate.messages[0].parts.add().file.url = f"{site.url}/terms.pdf"
        await attempt("openai", chat.url, request)
    data = base64.b64encode(PDF).decode()
    assert chat.bodies[0]["messages"][0]["content"][2] == {
        "type": "file",
        "file": {"file_data": f"data:application/pdf;base64,{data}", "filename": "terms.pdf"},
    }


async def test_a_failed_fetch_costs_no_call() -> None:
    async with Chat(lambda _: "a cat").serve() as chat:
        got = await attempt("ollama", chat.url, image("http://127.0.0.1:1/"), fetch=FetchSettings())
    assert got.failure.param == "messages[0].content[1].image_url"
    assert got.failure.row.http == 400
    assert (chat.bodies, got.record.upstream_calls) == ([], 0)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("bedrock", "amazon.nova-lite-v1:0"),
        ("gemini", "gemini-2.5-flash"),
        ("vertex_ai", "gemini-2.5-flash"),
        ("vertex_ai", "claude-sonnet-4-5"),
        ("ollama", "llava"),
    ],
)
@pytest.mark.parametrize("what", ["image", "file"])
def test_providers_that_want_bytes_say_so_where_they_are_missing(
    kind: str, model: str, what: str
) -> None:
    from tests.workers.parameters.cells import PROVIDERS

    request = ask()
    part = request.generate.messages[0].parts.add()
    getattr(part, what).url = "https://example.com/a.pdf"
    provider = PROVIDERS[kind]
    with pytest.raises(Unreadable) as caught:
        provider.dialect_for(model).call(request, model, provider)
    assert caught.value.row.http == 400
    assert not caught.value.reads(part)


def test_addresses_that_the_provider_reads_are_left_to_it() -> None:
    from tests.workers.parameters.cells import PROVIDERS

    request = ask()
    video = request.generate.messages[0].parts.add()
    video.file.url = "https://www.youtube.com/watch?v=1"
    request.generate.messages[0].parts.add().image.url = "https://example.com/a.png"
    provider = PROVIDERS["gemini"]
    with pytest.raises(Unreadable) as caught:
        provider.dialect_for("gemini-2.5-flash").call(request, "gemini-2.5-flash", provider)
    assert caught.value.reads(video)
    assert not caught.value.reads(content_pb2.Part(image=content_pb2.Image(url="https://a/b")))
