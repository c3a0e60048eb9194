"""A queue that takes no more, and a disk that does not: refused with the reason, never dropped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import Error as JetStreamError

from tests.system.stack import MakeStack, Stack, until

QUICK = "sim/tokens=2"


async def charged(stack: Stack, count: int) -> bool:
    return (await stack.ledger()).total().charges == count


async def test_a_full_stream_refuses_with_the_reason_and_keeps_what_it_took(stack: Stack) -> None:
    config = (await stack.bus.js.stream_info("INT")).config
    config.max_msgs = 10
    await stack.bus.js.update_stream(config)
    async with stack.client() as client:
        # So that nobody takes them.
        for name in ("worker0", "worker1"):
            stack.processes[name].kill(signal.SIGSTOP)
        asked = [asyncio.create_task(stack.chat(client, QUICK)) for _ in range(60)]
        await until(lambda: sum(task.done() for task in asked) >= 40, "what has no room is told")
        for name in ("worker0", "worker1"):
            stack.processes[name].kill(signal.SIGCONT)
        answers = await asyncio.gather(*asked)
    found = Counter(a.status_code for a in answers)
    assert set(found) == {200, 429}
    for refused in (a for a in answers if a.status_code == 429):
        assert refused.json()["error"]["code"] == "queue_full"
        assert "full" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"]
    await stack.quiet(timeout_s=20)
    await until(partial(charged, stack, found[200]), "what was answered is charged")
    assert (await stack.sim_stats())["calls"] == found[200]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_told_and_what_was_answered_is_charged_once_there_is_room(
    make_stack: MakeStack, small_disk: Path
) -> None:
    settings = small_disk / "nats.conf"
    # It would reserve no more than there is, and the streams want more.
    settings.write_text(f'jetstream {{ store_dir: "{small_disk}/js", max_file_store: 100GB }}')
    stack = await make_stack(nats_arguments=("-c", str(settings)))
    async with stack.client() as client:
        assert (await stack.chat(client, QUICK)).status_code == 200
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        answers = []
        for _ in range(4):
            answers += await asyncio.gather(
                *(stack.chat(client, QUICK, "hello " * 2000) for _ in range(50))
            )
        found = Counter(a.status_code for a in answers)
        assert set(found) <= {200, 429, 503}, found
        for refused in (a for a in answers if a.status_code != 200):
            assert refused.json()["error"]["code"] in {"broker_unavailable", "queue_full"}
            assert refused.headers["retry-after"]
        filler.unlink()
        stack.processes["nats"].kill(signal.SIGTERM)
        stack.processes["nats"].popen.wait(10)
        stack.start_nats()

        async def answered() -> bool:
            return (await stack.chat(client, QUICK)).status_code == 200

        await until(answered, "it serves again", 30)
    calls = (await stack.sim_stats())["calls"]
    await until(partial(charged, stack, calls), "what was answered is charged", 40)


async def test_a_full_store_is_told_and_what_was_answered_is_charged_once_there_is_room(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    """As above with a limit of NATS's own, which needs no disk that may be mounted."""
    settings = tmp_path / "nats.conf"

    def limit(size: str) -> None:
        settings.write_text(f'jetstream {{ store_dir: "{tmp_path}/js", max_file_store: {size} }}')

    async def limited(size: str) -> None:
        limit(size)
        stack.processes["nats"].kill(signal.SIGTERM)
        stack.processes["nats"].popen.wait(10)
        stack.start_nats()
        await until(answered, "it serves", 30)

    async def answered() -> bool:
        return (await stack.chat(client, QUICK)).status_code == 200

    limit("100GB")
    stack = await make_stack(nats_arguments=("-c", str(settings)))
    async with stack.client() as client:
        # No stream may want more than there is; who lays them out would have them do so again.
        stack.processes["broker"].kill()
        for info in await stack.bus.js.streams_info():
            await stack.bus.js.update_stream(info.config.evolve(max_bytes=-1))
        await stack.bus.js.add_stream(StreamConfig(name="FILLER", subjects=["filler"]))
        await limited("16MB")
        with pytest.raises(JetStreamError, match="resource"):
            while True:
                await stack.bus.js.publish("filler", b"x" * 500_000)
        answers = await asyncio.gather(*(stack.chat(client, QUICK) for _ in range(50)))
        assert {a.status_code for a in answers} <= {429, 503}
        for refused in answers:
            assert refused.json()["error"]["code"] in {"broker_unavailable", "queue_full"}
            assert refused.headers["retry-after"]
        await limited("100GB")
        stack.spawn("broker", "broker")
    calls = (await stack.sim_stats())["calls"]
    await until(partial(charged, stack, calls), "what was answered is charged", 40)
