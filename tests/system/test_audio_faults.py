"""Audio when workers die and clients leave, and what large recordings cost in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.shared import shared_stack
from tests.system.stack import Stack, until
from workers.sim.audio import wav

MIB = 1 << 20
# What OpenAI takes at most.
LARGE = 25 * MIB
AT_ONCE = 8
# What may come on top of the recordings themselves, in any process.
MOST = 64 * MIB
SOUND = bytes(range(256)) * (4 * 4096)
SPEECH = {"input": "x" * 400, "voice": "v", "response_format": "wav"}


class SlowEar:
    """A provider that reads no recording before all of them have begun to come."""

    def __init__(self) -> None:
        self.port = 0
        self.begun = self.busy = 0
        # Large ones that came whole.
        self.heard = 0
        self._all = asyncio.Event()

    def hold(self) -> None:
        """Wait for all of them again."""
        self.begun = 0
        self._all.clear()

    def go(self) -> None:
        """Wait for no more."""
        self._all.set()

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                self.busy += 1
                try:
                    await self._one(head, reader, writer)
                finally:
                    self.busy -= 1
        writer.close()

    async def _one(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        left = size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if left > LARGE:
            self.begun += 1
            if self.begun == AT_ONCE:
                self._all.set()
            await self._all.wait()
            await asyncio.sleep(1)  # whoever reads ahead does so now
        digest = hashlib.sha256()
        while left:
            data = await reader.read(min(left, 1 << 18))
            if not data:
                raise EOFError
            left -= len(data)
            digest.update(data)
        self.heard += size > LARGE
        body = b'{"text":"heard"}'
        kind = b"content-type: application/json\r\n"
        head = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n" % (kind, len(body))
        writer.write(head + body)
        await writer.drain()


@pytest.fixture(scope="module")
async def ear() -> AsyncIterator[SlowEar]:
    ear = SlowEar()
    server = await asyncio.start_server(ear.hear, "127.0.0.1", 0, limit=1 << 18)
    ear.port = server.sockets[0].getsockname()[1]
    yield ear
    server.close()


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, ear: SlowEar) -> AsyncIterator[Stack]:
    url = f"http://127.0.0.1:{ear.port}/v1"
    providers = {"openai": {"base_url": url, "api_key": "k", "slots": AT_ONCE}}
    async with shared_stack(
        # Eight at once of sim need both workers.
        tmp_path_factory,
        workers=2,
        slots=4,
        providers=providers,
        serves=("sim", "openai"),
    ) as stack:
        yield stack


def resident(stack: Stack, name: str, field: str) -> int:
    """Memory of a process in bytes: VmRSS now, VmHWM at most so far."""
    status = Path(f"/proc/{stack.processes[name].popen.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peaks(stack: Stack) -> None:
    """VmHWM counts anew from now on, where the system lets us ask for that."""
    for process in stack.processes.values():
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.popen.pid}/clear_refs").write_text("5", "ascii")


async def transcribed(client: httpx.AsyncClient, model: str, sound: Any) -> httpx.Response:
    files = {"file": ("a.wav", sound, "audio/wav")}
    data = {"model": model}
    return await client.post("/v1/audio/transcriptions", data=data, files=files, timeout=120)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_r10_eight_recordings_of_25_mb_cost_the_edge_their_size_and_others_nothing(
    stack: Stack, ear: SlowEar, tmp_path: Path
) -> None:
    recording = tmp_path / "recording.wav"
    recording.write_bytes(b"\x01" * LARGE)
    names = ("edge", "worker0", "worker1", "nats", "broker")

    async def one(client: httpx.AsyncClient) -> httpx.Response:
        with recording.open("rb") as file:
            return await transcribed(client, "openai/whisper-1", file)

    async with stack.client() as client:
        for _ in range(8):  # both workers have had one
            assert (await transcribed(client, "openai/whisper-1", SOUND)).status_code == 200
        forget_peaks(stack)
        before = {name: resident(stack, name, "VmHWM") for name in names}
        answers = await asyncio.gather(*(one(client) for _ in range(AT_ONCE)))
    assert [answer.json() for answer in answers] == [{"text": "heard"}] * AT_ONCE
    assert ear.heard == AT_ONCE
    grown = {name: resident(stack, name, "VmHWM") - before[name] for name in names}
    print({name: f"{size / MIB:.0f} MiB" for name, size in grown.items()})  # noqa: T201
    bodies = {"edge": AT_ONCE * LARGE}
    for name, size in grown.items():
        assert size - bodies.get(name, 0) <= MOST, grown
    await stack.quiet()
    after = resident(stack, "edge", "VmRSS") - before["edge"]
    print(f"the edge keeps {after / MIB:.0f} MiB")  # noqa: T201
    assert after <= MOST


async def test_a_client_that_leaves_a_voice_closes_the_call_upstream(stack: Stack) -> None:
    body = {"model": "sim/sim-delay_ms=50", **SPEECH}
    await stack.reset_sim()
    async with stack.client() as client:
        async with client.stream("POST", "/v1/audio/speech", json=body) as response:
            assert response.headers["content-type"] == "audio/wav"
            await anext(response.aiter_raw())
            assert (await stack.sim_stats())["open"] == 1
        await stack.quiet()
    assert (await stack.sim_stats())["aborted"] == 1


async def spread(stack: Stack, count: int) -> bool:
    """So many calls are open upstream, and both workers have some."""
    sessions = [worker.sessions for worker in (await stack.load()).workers]
    both = sum(1 for number in sessions if number) == 2
    return both and bool((await stack.sim_stats())["open"] == count)


async def another(stack: Stack) -> None:
    """A worker in place of the one that was killed."""
    await stack.quiet(timeout_s=30)
    stack.start_worker(0)
    await until(lambda: stack.live_workers(4), "both workers are live")


async def test_r3_a_recording_whose_worker_dies_is_heard_by_another(stack: Stack) -> None:
    digest = hashlib.sha256(SOUND).hexdigest()
    await stack.reset_sim()
    async with stack.client() as client:
        calls = [
            asyncio.create_task(transcribed(client, "sim/sim-ttft_ms=2000", SOUND))
            for _ in range(8)
        ]
        await until(lambda: spread(stack, 8), "both workers have recordings")
        stack.processes["worker0"].kill()
        answers = await asyncio.gather(*calls)
    for answer in answers:
        assert answer.json()["text"].endswith(f"{len(SOUND)} bytes and digest {digest}")
    assert (await stack.sim_stats())["calls"] > 8
    await another(stack)


async def streamed(client: httpx.AsyncClient, model: str) -> str:
    """A transcript by its deltas; at its end it has to be the same."""
    text, kinds = "", []
    files = {"file": ("a.wav", SOUND, "audio/wav")}
    data = {"model": model, "stream": "true"}
    url = "/v1/audio/transcriptions"
    async with client.stream("POST", url, data=data, files=files) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                kinds.append(event["type"])
                text += event.get("delta", "")
    assert kinds[-1] == "transcript.text.done"
    assert event["text"] == text
    return text


async def test_r4_a_voice_whose_worker_dies_never_looks_whole_and_a_transcript_goes_on(
    stack: Stack,
) -> None:
    body = {"model": "sim/sim-delay_ms=30", **SPEECH}
    whole = wav(str(SPEECH["input"]))

    async def hear(client: httpx.AsyncClient) -> bool:
        """Whether it came whole; if not, what came is its beginning."""
        heard = bytearray()
        try:
            async with client.stream("POST", "/v1/audio/speech", json=body) as response:
                async for piece in response.aiter_raw():
                    heard += piece
        except httpx.RemoteProtocolError:
            assert len(heard) < len(whole)
            assert whole.startswith(bytes(heard))
            return False
        assert heard == whole
        return True

    async with stack.client() as client:
        # Four on each worker: both have a voice at least.
        calls = [asyncio.create_task(hear(client)) for _ in range(5)]
        model = "sim/sim-delay_ms=300"
        texts = [asyncio.create_task(streamed(client, model)) for _ in range(3)]
        await until(lambda: spread(stack, 8), "both workers speak and write")
        await asyncio.sleep(0.5)  # let something be shown
        stack.processes["worker0"].kill()
        ends = await asyncio.gather(*calls)
        written = await asyncio.gather(*texts)
    assert set(ends) == {True, False}
    digest = hashlib.sha256(SOUND).hexdigest()
    assert set(written) == {f"transcribed a.wav with {len(SOUND)} bytes and digest {digest}"}
    await another(stack)


async def test_r7_a_killed_edge_takes_the_recordings_with_it(stack: Stack, ear: SlowEar) -> None:
    ear.hold()
    heard, sound = ear.heard, bytes(LARGE)
    async with stack.client() as client:
        calls = [
            asyncio.create_task(transcribed(client, "openai/whisper-1", sound)) for _ in range(3)
        ]
        await until(lambda: ear.begun == 3, "three recordings are on their way")
        stack.processes["edge"].kill()
        for call in calls:
            with pytest.raises(httpx.TransportError):
                await call
    ear.go()  # and what was under way is read to its end, which does not come
    await until(lambda: not ear.busy, "every call upstream is closed", 10)
    assert ear.heard == heard
    stack.start_edge(0)
    await until(stack.ready, "the edge is back")
    await until(lambda: stack.live_workers(4), "the workers are seen again")
    await stack.quiet(timeout_s=20)
