from __future__ import annotations

import asyncio
import gc
import io
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import httpx
import orjson
import pytest

from broker import telemetry
from broker.config import LogSettings


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("httpx", "uvicorn")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(capture=False)


def fail(text: str) -> None:
    raise ValueError(text)


def rows(stream: io.BytesIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_carries_the_fields_of_extra() -> None:
    out = io.BytesIO()
    telemetry.start(LogSettings(format="json"), "edge-1", out)
    logging.getLogger("edge.exchange").info(
        "attempt %d failed", 2, extra={"request_id": "req_1", "provider": "openai", "attempt": 2}
    )
    (row,) = rows(out)
    assert row["message"] == "attempt 2 failed"
    assert (row["level"], row["process"], row["logger"]) == ("info", "edge-1", "edge.exchange")
    assert (row["request_id"], row["provider"], row["attempt"]) == ("req_1", "openai", 2)
    assert str(row["time"]).endswith("Z")


def test_a_traceback_is_one_field_of_its_line() -> None:
    out = io.BytesIO()
    telemetry.start(LogSettings(format="json"), "edge", out)
    try:
        fail("no\nluck")
    except ValueError:
        logging.getLogger("x").exception("it broke")
    (row,) = rows(out)
    assert row["level"] == "error"
    assert str(row["exception"]).startswith("Traceback")
    assert "ValueError: no\nluck" in str(row["exception"])


@pytest.mark.parametrize(
    ("given", "stream", "pretty"),
    [
        ("auto", io.BytesIO, False),
        ("auto", Terminal, True),
        ("pretty", io.BytesIO, True),
        ("json", Terminal, False),
    ],
)
def test_auto_is_pretty_on_a_terminal_only(
    given: str, stream: type[io.BytesIO], pretty: bool
) -> None:
    out = stream()
    telemetry.start(LogSettings(format=given), "edge", out)  # type: ignore[arg-type]
    logging.getLogger("x").warning("hello", extra={"provider": "openai", "attempt": None})
    text = out.getvalue().decode()
    assert text.startswith("{") is not pretty
    if pretty:
        assert "edge: hello provider=openai\n" in text


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_what_a_client_wrote_cannot_forge_a_line(form: str) -> None:
    out = io.BytesIO()
    telemetry.start(LogSettings(format=form), "edge", out)  # type: ignore[arg-type]
    logging.getLogger("x").info(
        "model %s", "a\nINFO edge: paid", extra={"model": "b\n\x1b[31mINFO edge: paid"}
    )
    assert out.getvalue().count(b"\n") == 1
    assert b"\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("authorization: Bearer mr-abcDEF_123-xyz", "abcDEF"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("key mr-Zm9vYmFyYmF6cXV4cXV1eA was refused", "Zm9v"),
        ("sk-proj-abcdefghijklmnop", "abcdefgh"),
        ("sk-ant-api03-abcdefghijklmnop", "abcdefgh"),
        ("nats://user:hunter22@nats.example:4222", "hunter22"),
        ('{"api_key": "1234567890"}', "1234567890"),
        ("api_key='1234567890'", "1234567890"),
        ("password=hunter2222&x=1", "hunter2222"),
        ("AIzaSyA1234567890abcdefghijklmnop", "SyA123"),
        ("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY", "CSSL3U"),
        ("x-provider-key: abcdef0123456789", "abcdef0123"),
        ("{b'x-provider-key': b'abcdef0123456789'}", "abcdef0123"),
        ("MILLRACE_MASTER_KEY=abcdef0123456789", "abcdef0123"),
        ("credential: 'abcdef0123456789'", "abcdef0123"),
        ("the token ya29.a0AfH6SMBx-abcdef0123456789", "abcdef0123"),
        ("AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "MDENG"),
        ("ASIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfi:session+token==", "session"),
        ("{'x-amz-security-token': 'abcdef0123456789'}", "abcdef0123"),
        ("-----BEGIN PRIVATE KEY-----\nabcdef0123456789\n-----END PRIVATE KEY-----", "abcdef0123"),
    ],
)
def test_secrets_are_hidden_in_messages_fields_and_tracebacks(text: str, secret: str) -> None:
    out = io.BytesIO()
    telemetry.start(LogSettings(format="json"), "edge", out)
    log = logging.getLogger("x")
    log.error("said: %s", text)
    log.error("said", extra={"upstream": text})
    try:
        fail(text)
    except ValueError:
        log.exception("said")
    assert secret not in out.getvalue().decode()
    assert len(rows(out)) == 3
    assert out.getvalue().count(b"[hidden]") >= 3


def test_addresses_that_are_called_are_not_logged() -> None:
    out = io.BytesIO()
    telemetry.start(LogSettings(format="json"), "broker", out)
    httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(204))).post(
        "https://hooks.example/services/T0/secret?token=secret"
    )
    assert rows(out) == []


def test_redaction_leaves_ordinary_words_alone() -> None:
    text = "req_0123456789abcdef chatcmpl-0123456789 key_01234567 https://api.openai.com:443/v1 nats://127.0.0.1:4222"
    assert telemetry.redact(text) == text


def test_warnings_are_written_at_once_and_lines_of_a_loop_are_gathered() -> None:
    out = io.BytesIO()
    started = telemetry.start(LogSettings(format="json"), "edge", out)

    async def talk() -> None:
        for n in range(3):
            started.requests.write("request", {"request_id": f"req_{n}"})
        assert out.getvalue() == b""
        async with asyncio.timeout(5):
            while len(rows(out)) < 3:
                await asyncio.sleep(0.01)
        started.requests.write("request", {"request_id": "req_3"})
        logging.getLogger("x").warning("now")
        assert [r["message"] for r in rows(out)][-2:] == ["request", "now"]

    asyncio.run(talk())


def test_lines_written_after_a_loop_has_ended_still_appear() -> None:
    out = io.BytesIO()
    started = telemetry.start(LogSettings(format="json"), "edge", out)

    async def talk() -> None:
        started.requests.write("request", {"n": 1})

    asyncio.run(talk())
    logging.getLogger().handlers[0].flush()  # what logging does at exit
    asyncio.run(talk())
    logging.getLogger().handlers[0].flush()
    started.requests.write("request", {"n": 3})
    assert len(rows(out)) == 3


def test_lines_are_not_lost_when_the_process_ends() -> None:
    script = """
        import asyncio
        from broker import telemetry
        from broker.config import LogSettings

        async def main():
            telemetry.start(LogSettings(format="json"), "edge").requests.write("last words", {})

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=30, check=True
    )
    assert b"last words" in done.stderr


def test_many_lines_are_written_in_pieces_that_a_shared_pipe_keeps_whole() -> None:
    pieces: list[bytes] = []

    class Pipe(io.BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            pieces.append(data)
            return super().write(data)

    out = Pipe()
    started = telemetry.start(LogSettings(format="json"), "edge", out)

    async def talk() -> None:
        for _ in range(2_000):
            started.requests.write("request", {"request_id": "req_0123456789abcdef"})
        assert len(out.getvalue()) > 100_000

    asyncio.run(talk())
    assert max(map(len, pieces)) <= 4096
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) < 200


def test_a_closed_stream_breaks_nothing() -> None:
    out = io.BytesIO()
    started = telemetry.start(LogSettings(format="json"), "edge", out)
    out.close()
    logging.getLogger("x").error("into the void")
    started.requests.write("request", {})


def test_level_warning_logs_no_requests() -> None:
    out = io.BytesIO()
    started = telemetry.start(LogSettings(format="json", level="warning"), "edge", out)
    assert not started.requests.on
    started.requests.write("request", {})
    logging.getLogger("x").info("hidden")
    assert out.getvalue() == b""


def test_metrics_carry_the_process_and_their_labels() -> None:
    metrics = telemetry.Metrics("edge-1")
    requests = metrics.counter("requests", "Finished requests.", "provider", "status")
    requests.add("openai", "200")
    requests.add("openai", "200", by=2)
    seconds = metrics.histogram("request_seconds", "Duration.", "provider")
    seconds.observe(0.004, "openai")
    text = metrics.render()[0].decode()
    assert 'millrace_requests_total{process="edge-1",provider="openai",status="200"} 3.0' in text
    assert (
        'millrace_request_seconds_bucket{le="0.005",process="edge-1",provider="openai"} 1.0' in text
    )
    assert (
        'millrace_request_seconds_bucket{le="0.0025",process="edge-1",provider="openai"} 0.0'
        in text
    )
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_a_gauge_is_read_when_somebody_looks() -> None:
    metrics = telemetry.Metrics("edge-1")
    depth: dict[tuple[str, ...], float] = {("openai",): 3}
    metrics.gauge("queue_depth", "Waiting.", lambda: depth, "provider")
    metrics.gauge("in_flight", "Running.", lambda: len(depth))
    assert (
        b'millrace_queue_depth{process="edge-1",provider="openai"} 3.0\n' in (metrics.render()[0])
    )
    depth[("sim",)] = 0
    after = metrics.render()[0]
    assert b'millrace_queue_depth{process="edge-1",provider="sim"} 0.0' in after
    assert b'millrace_in_flight{process="edge-1"} 2.0' in after


async def test_tasks_are_counted() -> None:
    metrics = telemetry.Metrics("edge-1")
    gc.collect()
    before = metrics.render()[0]
    task = asyncio.create_task(asyncio.sleep(60))
    after = metrics.render()[0]
    task.cancel()

    def count(text: bytes) -> float:
        (line,) = [t for t in text.splitlines() if t.startswith(b"millrace_tasks{")]
        return float(line.split()[-1])

    assert count(after) == count(before) + 1


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    metrics = telemetry.Metrics("edge")
    plain, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    assert not plain.endswith(b"# EOF\n")
    rich, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert rich.endswith(b"# EOF\n")
