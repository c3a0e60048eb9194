"""Which of a caller's headers reach the provider, and where its own provider key goes."""

from __future__ import annotations

import timeit

import httpx
import pytest

from broker.translate.headers import ACCOUNT, LEFT_OUT, LEFT_OUT_FAMILIES, forwarded, goes_on
from tests.edge.http.standin import AUTHORIZED, Edge, Start, body

CHAT = "/v1/chat/completions"
# What openai-python 2 sends by itself.
SDK = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "AsyncOpenAI/Python 2.8.1",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.8.1",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.15",
    "x-stainless-async": "async:asyncio",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
FORWARDED = {
    "x-custom-header": "value",
    "anthropic-beta": "context-1m-2025-08-07,output-128k-2025-02-19",
    "x-client-request-id": "theirs-1",
    "http-referer": "https://app.example",
    "x-title": "My app",
    "x-amzn-bedrock-guardrailidentifier": "gr-1",
    "openai-beta": "assistants=v2",
}


async def sent_on(
    start: Start, client: httpx.AsyncClient, headers: dict[str, str], **fields: object
) -> tuple[dict[str, str], Edge]:
    edge = await start()
    reply = await client.post(edge.url + CHAT, json=body(**fields), headers=AUTHORIZED | headers)
    assert reply.status_code == 200
    return dict(edge.engine.requests[0][0].platform.extra_headers), edge


async def test_headers_that_nobody_knows_go_on_and_an_sdks_own_do_not(
    start: Start, client: httpx.AsyncClient
) -> None:
    got, _ = await sent_on(start, client, {**SDK, **FORWARDED})
    assert got == FORWARDED


async def test_an_sdk_that_is_asked_nothing_special_sends_nothing_on(
    start: Start, client: httpx.AsyncClient
) -> None:
    assert (await sent_on(start, client, SDK))[0] == {}


@pytest.mark.parametrize("name", sorted(LEFT_OUT - {"authorization"}))
def test_what_is_in_the_table_stays_here(name: str) -> None:
    assert not goes_on(name)
    assert not goes_on(name.title())
    assert list(forwarded({name.encode(): b"1"})) == []


@pytest.mark.parametrize("family", LEFT_OUT_FAMILIES)
def test_families_stay_here_whatever_follows(family: str) -> None:
    assert not goes_on(family.upper() + "Anything")
    assert list(forwarded({family.encode() + b"anything": b"1"})) == []


async def test_the_bodys_headers_are_stronger_and_the_table_holds_for_them_too(
    start: Start, client: httpx.AsyncClient
) -> None:
    asked = {"X-Team": "body", "Authorization": "Bearer s3cret", "X-Provider-Key": "s3cret"}
    got, edge = await sent_on(
        start, client, {"x-team": "header", "x-other": "1"}, extra_headers=asked
    )
    assert got == {"X-Team": "body", "x-other": "1"}
    assert b"s3cret" not in edge.engine.requests[0][0].SerializeToString()


async def test_what_is_not_plain_text_does_not_go_on(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    headers = httpx.Headers([(b"x-name", "Zoë".encode()), (b"x-tab", b"a\tb"), (b"x-fine", b"1")])
    headers.update(AUTHORIZED)
    reply = await client.post(edge.url + CHAT, json=body(), headers=headers)
    assert reply.status_code == 200
    assert dict(edge.engine.requests[0][0].platform.extra_headers) == {"x-fine": "1"}


@pytest.mark.parametrize(
    ("headers", "fields", "own"),
    [
        ({}, {}, False),
        ({"x-provider-key": "sk-own"}, {}, True),
        ({}, {"use_custom_keys": True}, True),
        ({"x-provider-key": "sk-own"}, {"use_custom_keys": False}, False),
    ],
)
async def test_an_account_at_the_provider_goes_on_with_the_callers_own_key_only(
    start: Start,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    fields: dict[str, object],
    *,
    own: bool,
) -> None:
    account = dict.fromkeys(ACCOUNT, "org-1")
    got, _ = await sent_on(start, client, {**headers, **account}, **fields)
    assert got == (account if own else {})


async def test_a_provider_key_is_handed_over_beside_the_request_and_not_in_it(
    start: Start, client: httpx.AsyncClient
) -> None:
    got, edge = await sent_on(start, client, {"X-Provider-Key": "sk-own-0123456789"})
    assert got == {}
    assert edge.engine.provider_keys == ["sk-own-0123456789"]
    assert b"sk-own" not in edge.engine.requests[0][0].SerializeToString()
    assert b"sk-own" not in edge.log.getvalue()


def test_an_ordinary_request_pays_next_to_nothing_for_it() -> None:
    headers = {name.encode(): value.encode() for name, value in SDK.items()}
    list(forwarded(headers))
    runs = 2000
    spent = min(timeit.repeat(lambda: list(forwarded(headers)), number=runs, repeat=5)) / runs
    assert spent < 20e-6  # 1 us where nothing else runs
