"""Keys in the real bucket, as an edge sees them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from broker import keys
from broker.bus import connect
from broker.bus.keyring import Keyring
from broker.bus.layout import ensure_layout
from broker.embedded import EmbeddedNats
from broker.errors import InferenceError
from edge.auth import Authenticator
from tests.edge.http.standin import until

Run = Callable[[], Awaitable[subprocess.Popen[bytes]]]


@pytest.fixture
def nats(tmp_path: Path) -> EmbeddedNats:
    return EmbeddedNats(tmp_path)


@pytest.fixture
def run(nats: EmbeddedNats) -> Iterator[Run]:
    """Starts the server; called again, starts it again."""
    with contextlib.ExitStack() as ending:

        async def begin() -> subprocess.Popen[bytes]:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(nats.prepare(), stdout=quiet, stderr=quiet)
            ending.callback(process.wait)
            ending.callback(process.kill)
            await until(lambda: nats.ready(process.pid), 20)
            return process

        yield begin


async def reason(auth: Authenticator, secret: str) -> str:
    """What a key is refused for; empty when it is taken."""
    try:
        await auth.authenticate(f"Bearer {secret}")
    except InferenceError as exc:
        return exc.reason
    return ""


async def test_keys_are_found_followed_and_outlive_the_loss_of_nats(
    nats: EmbeddedNats, run: Run
) -> None:
    process = await run()
    bus = await connect(nats.settings(), name="edge-test")
    await ensure_layout(bus, 1)
    keyring = Keyring(bus)
    auth = Authenticator(keyring)
    before, _ = await keyring.create("before")
    # By one direct read, without being told of any change.
    assert await reason(auth, before) == ""
    assert await reason(auth, "mr-unknown") == "invalid_api_key"
    following = asyncio.create_task(auth.follow())
    made, record = await keyring.create("later")
    await until(lambda: keys.digest(made) in auth._known)
    assert await reason(auth, made) == ""
    await keyring.revoke(record.id)
    await until(lambda: auth._known[keys.digest(made)].revoked, 2)
    assert await reason(auth, made) == "invalid_api_key"

    process.kill()
    process.wait()
    await until(lambda: not bus.connected)
    assert await reason(auth, before) == ""
    assert await reason(auth, made) == "invalid_api_key"
    async with asyncio.timeout(4):
        assert await reason(auth, "mr-never-seen") == "broker_unavailable"

    await run()
    await until(lambda: bus.connected, 20)
    (record,) = [record for record in await keyring.list() if record.name == "before"]
    await keyring.revoke(record.id)
    await until(lambda: auth._known[keys.digest(before)].revoked, 20)
    assert await reason(auth, before) == "invalid_api_key"
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    await bus.close()
