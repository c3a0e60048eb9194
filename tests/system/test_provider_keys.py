"""Whose key a provider is called with: several of the operator's, or the caller's own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from broker import keys
from broker.v1 import content_pb2, generation_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, Received, Said, chat_answer, fake_provider
from tests.system.stack import KEY, ROOT, MakeStack, Stack, until

OURS = ("sk-ours-11111111111111", "sk-ours-22222222222222", "sk-ours-33333333333333")
OWN, STORED = "sk-own-5ecret-0123456789", "sk-stored-5ecret-0123456789"
KEY_ID = keys.identifier(keys.digest(KEY))


def refusal(status: int, message: str = "no", **headers: str) -> Said:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"message": message, "type": "x", "param": None, "code": None}
    return Said(status, {"error": error}, names)


def by_key(**statuses: Said) -> Any:
    """A script: how the provider answers calls with a key that has this number in it."""

    def script(call: Received) -> Said:
        for number, said in statuses.items():
            if number.removeprefix("k") in call.key:
                return said
        return chat_answer()

    return script


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(lambda _: chat_answer()) as made:
        yield made


@pytest.fixture
async def stack(make_stack: MakeStack, fake: FakeProvider) -> Stack:
    """One worker process for two providers; one has three keys, the other one."""
    providers = {
        "openai": {"base_url": fake.url("openai") + "/v1", "api_key": list(OURS)},
        "groq": {"base_url": fake.url("groq") + "/v1", "api_key": OURS[0]},
    }
    return await make_stack(workers=1, providers=providers, serves=("openai", "groq"))


async def outcome(
    stack: Stack, fake: FakeProvider, *, headers: Mapping[str, str] = {}, **fields: Any
) -> tuple[int, str | None, list[str]]:
    """(status, code, the keys of the calls) of one request."""
    fake.take()
    async with stack.client() as client:
        client.headers.update(headers)
        reply = await stack.chat(client, "openai/gpt-x", **fields)
    code = reply.json().get("error", {}).get("code")
    return reply.status_code, code, [call.key for call in fake.take()]


async def second_worker(stack: Stack) -> None:
    stack.spawn("worker1", "workers", "openai")
    await until(lambda: stack.live_workers(3), "a second worker")


# Several keys of the operator.


async def test_keys_of_the_operator_rotate_by_what_went_wrong(
    stack: Stack, fake: FakeProvider
) -> None:
    async with stack.client() as client:
        for _ in range(30):
            await stack.chat(client, "openai/gpt-x")
    assert {call.key for call in fake.take()} == set(OURS)

    # A server error: the same key again, after a while.
    fails = iter([refusal(500), refusal(500)])
    fake.script = lambda _: next(fails, chat_answer())
    begun = time.monotonic()
    status, _, used = await outcome(stack, fake)
    assert (status, len(used), len(set(used))) == (200, 3, 1)
    assert time.monotonic() - begun > 1.0

    # A refused key: the next one at once, and no request begins with it for a while.
    fake.script = by_key(k111=refusal(401), k222=refusal(402))
    begun = time.monotonic()
    for _ in range(30):
        assert (await outcome(stack, fake))[0] == 200
    assert time.monotonic() - begun < 6.0  # a back-off each would be 15 s
    fake.take()
    for _ in range(6):
        assert await outcome(stack, fake) == (200, None, [OURS[2]])


async def test_a_key_over_its_limit_rests_until_retry_after_and_requests_go_on(
    stack: Stack, fake: FakeProvider
) -> None:
    busy = refusal(429, retry_after="6")
    fake.script = by_key(k111=busy, k222=busy)
    begun = time.monotonic()
    met: set[str] = set()

    async def both_have_been_met() -> bool:
        status, _, used = await outcome(stack, fake)
        assert status == 200
        met.update(used)
        return met == set(OURS)

    await until(both_have_been_met, "requests began with every key", 5)
    for _ in range(4):
        assert (await outcome(stack, fake))[2] == [OURS[2]]
    assert time.monotonic() - begun < 6.0  # nobody waited
    fake.script = lambda _: chat_answer()

    async def back() -> bool:
        return (await outcome(stack, fake))[2] == [OURS[0]]

    await until(back, "the first key is used again")
    assert time.monotonic() - begun > 6.0


async def test_when_all_are_over_their_limits_the_caller_hears_of_the_soonest(
    stack: Stack, fake: FakeProvider
) -> None:
    waits = {"111": "40", "222": "20", "333": "30"}

    def busy(call: Received) -> Said:
        wait = next(wait for part, wait in waits.items() if part in call.key)
        return refusal(429, retry_after=wait)

    fake.script = busy
    async with stack.client() as client:
        reply = await stack.chat(client, "openai/gpt-x")
    assert reply.status_code == 429
    assert 15 <= float(reply.headers["retry-after"]) <= 20
    assert sorted(call.key for call in fake.take()) == sorted(OURS)


async def test_all_keys_refused_is_502_after_one_call_each_whatever_worker_takes_it(
    stack: Stack, fake: FakeProvider
) -> None:
    await second_worker(stack)
    fake.script = lambda call: refusal(401, f"refused {call.key}")
    async with stack.client() as client:
        reply = await stack.chat(client, "openai/gpt-x")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (502, "upstream_credentials")
    assert (error["type"], error["message"]) == ("server_error", "refused [hidden]")
    assert sorted(call.key for call in fake.take()) == sorted(OURS)

    # One that works again is back at once.
    fake.script = lambda _: chat_answer()
    assert (await outcome(stack, fake))[0] == 200


# The caller's own key.


async def test_a_key_in_the_header_is_used_for_that_provider_and_touches_none_of_ours(
    stack: Stack, fake: FakeProvider
) -> None:
    own = {"x-provider-key": OWN}
    asked: list[dict[str, Any]] = [{"use_custom_keys": True}, {}]
    for fields in asked:
        assert await outcome(stack, fake, headers=own, **fields) == (200, None, [OWN])
    status, _, used = await outcome(stack, fake, headers=own, use_custom_keys=False)
    assert (status, used) != (200, [OWN])
    assert set(used) <= set(OURS)

    fake.script = lambda call: refusal(401) if call.key == OWN else chat_answer()
    for status in (401, 402, 403):
        fake.script = by_key(own=refusal(status, f"Incorrect API key provided: {OWN}"))
        async with stack.client() as client:
            client.headers.update(own)
            reply = await stack.chat(client, "openai/gpt-x", use_custom_keys=True)
            error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (401, "invalid_provider_key")
        assert error["type"] == "invalid_request_error"
        assert error["message"] == "Incorrect API key provided: [hidden]"
        assert reply.headers["x-should-retry"] == "false"
        assert [call.key for call in fake.take()] == [OWN]
    fake.script = by_key(own=refusal(429, retry_after="30"))
    assert (await outcome(stack, fake, headers=own))[0] == 429
    used = [key for _ in range(9) for key in (await outcome(stack, fake))[2]]
    assert len(used) == 9
    assert OWN not in used
    assert len(set(used)) > 1


async def test_who_asks_for_their_own_key_and_has_none_is_told_so_without_a_call(
    stack: Stack, fake: FakeProvider
) -> None:
    async with stack.client() as client:
        reply = await stack.chat(client, "openai/gpt-x", use_custom_keys=True)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_provider_key")
    assert "x-provider-key" in reply.json()["error"]["message"]
    assert fake.take() == []


async def test_grpc_takes_a_key_in_its_metadata(stack: Stack, fake: FakeProvider) -> None:
    part = content_pb2.Part(text=content_pb2.Text(text="hello"))
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])
    generate = generation_pb2.GenerateRequest(model="openai/gpt-x", messages=[message])
    platform = generation_pb2.Platform(use_custom_keys=True)
    request = generation_pb2.Request(generate=generate, platform=platform)
    async with rpc.connected(stack) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        client.metadata = (*client.metadata, ("x-provider-key", OWN))
        await client.infer(request)
        assert [call.key for call in fake.take()] == [OWN]
        fake.script = lambda _: refusal(401)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def millrace(
    stack: Stack, *args: str, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "MILLRACE_NATS": f"nats://127.0.0.1:{stack.nats_port}",
        "MILLRACE_DATA": str(stack.folder / "data"),
        "MILLRACE_CONFIG": str(stack.config),
        **stack.extra_env,
    }
    command = [sys.executable, "-m", "broker.cli", "key", "provider-key", *args]
    return subprocess.run(
        command,
        env=env,
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_a_stored_key_is_used_when_it_is_asked_for_and_forgotten_when_removed(
    make_stack: MakeStack, fake: FakeProvider
) -> None:
    providers = {"openai": {"base_url": fake.url("openai") + "/v1", "api_key": OURS[0]}}
    env = {"MILLRACE_MASTER_KEY": "m" * 40}
    stack = await make_stack(workers=1, providers=providers, serves=("openai",), extra_env=env)

    assert (await outcome(stack, fake))[2] == [OURS[0]]  # the edge has the record before it changes
    done = await asyncio.to_thread(millrace, stack, "set", KEY_ID, "openai", given=STORED + "\n")
    assert done.returncode == 0, done.stderr
    assert STORED not in done.stdout + done.stderr

    async def stored() -> bool:
        status, _, used = await outcome(stack, fake, use_custom_keys=True)
        return (status, used) == (200, [STORED])

    await until(stored, "the stored key is used")
    assert (await outcome(stack, fake))[2] == [OURS[0]]
    assert (await outcome(stack, fake, headers={"x-provider-key": OWN}))[2] == [OWN]
    listed = await asyncio.to_thread(millrace, stack, "list", KEY_ID)
    assert listed.stdout.split() == ["openai"]

    done = await asyncio.to_thread(millrace, stack, "remove", KEY_ID, "openai")
    assert done.returncode == 0, done.stderr

    async def gone() -> bool:
        return (await outcome(stack, fake, use_custom_keys=True))[:2] == (
            401,
            "invalid_provider_key",
        )

    await until(gone, "the stored key is forgotten")
    for args, why in (
        (("remove", KEY_ID, "openai"), "no key of its own"),
        (("set", "key_nobody", "openai"), "key_nobody"),
        (("set", KEY_ID, "nobody"), "unknown provider"),
    ):
        failed = await asyncio.to_thread(millrace, stack, *args, given=STORED)
        assert failed.returncode == 1
        assert why in failed.stderr


async def test_no_key_is_found_on_nats_in_a_log_or_in_a_metric(
    make_stack: MakeStack, fake: FakeProvider
) -> None:
    providers = {"openai": {"base_url": fake.url("openai") + "/v1", "api_key": list(OURS)}}
    env = {"MILLRACE_MASTER_KEY": "m" * 40, "MILLRACE_LOG_LEVEL": "debug"}
    stack = await make_stack(workers=1, providers=providers, serves=("openai",), extra_env=env)
    await asyncio.to_thread(millrace, stack, "set", KEY_ID, "openai", given=STORED)
    own = {"x-provider-key": OWN}
    big = "x" * (600 << 10)
    scripts = {
        "fine": lambda _: chat_answer(),
        "refused": lambda call: refusal(401, f"your key {call.key} is wrong"),
        "busy": lambda call: refusal(429, f"{call.key} is over its limit", retry_after="30"),
        "broken": lambda call: Said(
            500, f"<html>{call.key}".encode(), {"content-type": "text/html"}
        ),
    }
    texts = []
    used = set()
    for script in scripts.values():
        fake.script = script
        for fields in ({}, {"stream": True}):
            async with stack.client() as client:
                for headers in (own, {}):
                    reply = await client.post(
                        "/v1/chat/completions",
                        headers=headers,
                        json={
                            "model": "openai/gpt-x",
                            "messages": [{"role": "user", "content": "hello"}],
                            "use_custom_keys": True,
                            "extra_headers": {"X-Provider-Key": OWN, "authorization": OWN},
                            **fields,
                        },
                    )
                    texts.append(reply.text)
        used |= {call.key for call in fake.take()}
    fake.script = scripts["fine"]
    async with stack.client() as client:
        client.headers.update(own)
        assert (await stack.chat(client, "openai/gpt-x", big)).status_code == 200
        texts.append((await client.get("/metrics")).text)
    assert {OWN, STORED} <= used
    # A job that waits in the queue, and one that is buried.
    stack.processes["worker0"].kill()
    async with stack.client() as client:
        client.headers.update(own)
        with pytest.raises(httpx.TimeoutException):
            await client.post(
                "/v1/chat/completions",
                json={"model": "openai/gpt-x", "messages": [{"role": "user", "content": "wait"}]},
                timeout=1.0,
            )
    for process in stack.processes.values():
        if process.running and process.name != "nats":
            process.popen.terminate()
    await until(
        lambda: not any(p.running for p in stack.processes.values() if p.name != "nats"),
        "all ended",
    )
    secrets = re.compile("|".join(map(re.escape, (OWN, STORED, *OURS))).encode())
    assert not [text for text in texts if secrets.search(text.encode())]
    seen = 0
    for path in Path(stack.folder).rglob("*"):
        if path.is_file() and path != stack.config:
            data = path.read_bytes()
            seen += b"gpt-x" in data
            assert not secrets.search(data), path
    assert seen  # the jobs were there to be looked at
