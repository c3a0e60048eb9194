from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.workers.sim.raw import USER, Client, Sim, chat_body, start


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": "sim,tokns=3,frob"}, "model", "tokns, frob"),
        ({"sim": {"nope": 1}}, "sim.nope", "nope"),
        ({"sim": 7}, "sim", "object"),
        ({"model": "tokens=x"}, "model", "whole number"),
        ({"sim": {"tokens": -1}}, "sim.tokens", "from 0"),
        ({"sim": {"tokens": True}}, "sim.tokens", "whole number"),
        ({"model": "fault=explode"}, "model", "cut"),
        ({"model": "burst=maybe"}, "model", "true or false"),
        ({"model": ""}, "model", "model"),
        ({"messages": []}, "messages", "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "role"),
        ({"max_tokens": "many"}, "max_tokens", "max_tokens"),
        ({"stop": [3]}, "stop", "stop"),
        ({"n": 1000}, "n", "128"),
        ({"model": "tool_call"}, "tools", "function"),
    ],
)
def test_a_bad_request_names_what_is_wrong(
    sim: Sim, fields: dict[str, Any], param: str, says: str
) -> None:
    reply = sim.chat(**fields)
    assert reply.status == 400
    assert reply.json["error"]["param"] == param
    assert says in reply.json["error"]["message"]


def test_what_is_not_a_chat_request_is_refused(sim: Sim) -> None:
    assert sim.request("POST", "/v1/chat/completions", b"{").status == 400
    assert sim.request("POST", "/v1/chat/completions", b"[]").status == 400
    assert sim.request("GET", "/v1/chat/completions").status == 405
    assert sim.request("GET", "/v1/nothing").status == 404
    client = Client(sim.address)
    client.socket.sendall(b"what is this\r\n\r\n")
    assert client.reply().status == 400
    client.close()


# The server.


def test_models_and_health(sim: Sim) -> None:
    assert [model["id"] for model in sim.request("GET", "/v1/models").json["data"]] == [
        "sim",
        "echo",
    ]
    assert sim.request("GET", "/healthz").json == {"status": "ok"}


def test_a_connection_serves_many_requests_until_told_to_close(sim: Sim) -> None:
    client = Client(sim.address)
    for stream in (False, True, False):
        client.send("POST", "/v1/chat/completions", chat_body(stream=stream))
        assert client.reply().ended == "whole"
    client.send("POST", "/v1/chat/completions", chat_body(), "connection: close\r\n")
    assert client.reply().ended == "whole"
    assert client.reply().ended == "eof"
    client.close()


def test_a_chunked_body_and_expect_continue_are_read(sim: Sim) -> None:
    body = chat_body(model="echo")
    client = Client(sim.address)
    pieces = [body[:5], body[5:]]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    client.send("POST", "/v1/chat/completions", chunked, "transfer-encoding: chunked\r\n")
    assert client.reply().text == USER["content"]
    extra = f"Expect: 100-continue\r\ncontent-length: {len(body)}\r\nx-ransfer-encoding: -\r\n"
    client.send("POST", "/v1/chat/completions", b"", extra)
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.socket.sendall(body)
    assert client.reply().text == USER["content"]
    client.close()


def test_a_large_body_is_read_and_a_larger_one_refused(sim: Sim) -> None:
    def body(size: int) -> bytes:
        return chat_body(messages=[{"role": "user", "content": "x" * size}])

    large = sim.request("POST", "/v1/chat/completions", body(20 << 20), timeout=20)
    assert large.json["usage"]["prompt_tokens"] == 4 + (20 << 18)
    too_large = sim.request("POST", "/v1/chat/completions", body(64 << 20), timeout=20)
    assert too_large.status == 413


def test_a_peer_that_leaves_is_noticed_at_once(sim: Sim) -> None:
    leavers: list[dict[str, Any]] = [
        {"model": "fault=hang"},
        {"model": "ttft_ms=60000"},
        {"model": "tokens=1000,delay_ms=50", "stream": True},
        {"model": "fault=stall", "stream": True},
    ]
    clients = [Client(sim.address) for _ in leavers]
    for client, fields in zip(clients, leavers, strict=True):
        client.send("POST", "/v1/chat/completions", chat_body(**fields))
    sim.until(lambda stats: stats["open"] == 4)
    for client in clients:
        client.close()
    stats = sim.until(lambda stats: stats["open"] == 0, seconds=0.5)
    assert (stats["calls"], stats["aborted"], stats["finished"]) == (4, 4, 0)
    assert stats["connections"] == 1


def test_a_reader_that_stops_reading_stops_the_answer(sim: Sim) -> None:
    client = Client(sim.address, receive_buffer=65536)
    body = chat_body(model="bytes=50000000,tokens=500", stream=True)
    client.send("POST", "/v1/chat/completions", body)
    sim.until(lambda stats: stats["open"] == 1)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:  # it would be done by then if nothing held it back
        assert sim.stats()["open"] == 1
        time.sleep(0.05)
    reply = client.reply(timeout=20)
    client.close()
    assert reply.ended == "whole"
    assert len(reply.streamed()) == 50_000_000
    assert sim.stats()["finished"] == 1


def test_stats_count_calls_by_model_and_outcome(sim: Sim) -> None:
    for model in ("tokens=3", "tokens=3", "tokens=4,fault=cut,after=2", "status=500"):
        sim.chat(model=model)
    stats = sim.stats()
    assert stats["calls"] == 4
    assert stats["by_model"]["tokens=3"] == 2
    assert (stats["finished"], stats["faulted"], stats["aborted"]) == (3, 1, 0)
    prompt = sim.chat(model="tokens=3").json["usage"]["prompt_tokens"]
    assert stats["usage"]["finished"] == {"prompt_tokens": 2 * prompt, "completion_tokens": 6}
    assert stats["usage"]["faulted"]["completion_tokens"] == 2
    assert sim.request("POST", "/stats/reset").json["calls"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_calls_open(number: signal.Signals) -> None:
    sim = start()
    client = Client(sim.address)
    client.send("POST", "/v1/chat/completions", chat_body(model="fault=hang"))
    sim.until(lambda stats: stats["open"] == 1)
    sim.process.send_signal(number)
    assert sim.process.wait(timeout=1) == 0
    client.close()
    assert sim.process.stdout is not None
    sim.process.stdout.close()


def test_a_taken_port_is_one_clear_line(sim: Sim) -> None:
    command = [sys.executable, "-m", "workers.sim", "--port", str(sim.address[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("sim cannot listen on 127.0.0.1:")
    assert done.stderr.count("\n") == 1
