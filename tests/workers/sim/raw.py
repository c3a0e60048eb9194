"""A simulator process and a raw HTTP client that hides nothing of what it answers."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

USER = {"role": "user", "content": "tell me about the sea"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "unit": {"enum": ["c", "f"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
        },
    },
}


@dataclass
class Reply:
    """What came back, and how it ended: whole, eof, reset or silence."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: str = "silence"
    first_byte: float = 0.0
    seconds: float = 0.0
    reads: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def datas(self) -> list[str]:
        lines = self.body.decode().replace("\r\n", "\n").split("\n\n")
        return [line.removeprefix("data: ") for line in lines if line]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(data) for data in self.datas if data != "[DONE]"]

    def streamed(self, name: str = "content", index: int = 0) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(
            choice["delta"].get(name) or "" for choice in choices if choice["index"] == index
        )

    @property
    def finish_reasons(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


class Client:
    """One raw connection; parses, but hides nothing."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(address)

    def send(self, method: str, path: str, body: bytes = b"", extra: str = "") -> None:
        length = "" if "ransfer-encoding" in extra else f"content-length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nhost: sim\r\n{length}{extra}\r\n"
        self.socket.sendall(head.encode() + body)

    def reply(self, timeout: float = 5.0) -> Reply:
        reply, done, start = Reply(), [], time.monotonic()

        class Events:
            def on_header(self, name: bytes, value: bytes) -> None:
                reply.headers[name.decode().lower()] = value.decode()

            def on_body(self, body: bytes) -> None:
                reply.body += body

            def on_message_complete(self) -> None:
                done.append(True)

        parser = httptools.HttpResponseParser(Events())
        while not done:
            self.socket.settimeout(max(0.001, start + timeout - time.monotonic()))
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                break
            except ConnectionResetError:
                reply.ended = "reset"
                break
            if not data:
                reply.ended = "eof"
                break
            reply.reads += 1
            reply.first_byte = reply.first_byte or time.monotonic() - start
            parser.feed_data(data)
        reply.status = parser.get_status_code()
        reply.seconds = time.monotonic() - start
        if done:
            reply.ended = "whole"
        return reply

    def close(self) -> None:
        self.socket.close()


@dataclass
class Sim:
    process: subprocess.Popen[str]
    address: tuple[str, int]

    @property
    def base_url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}/v1"

    def request(self, method: str, path: str, body: bytes = b"", **more: Any) -> Reply:
        client = Client(self.address)
        try:
            client.send(method, path, body)
            return client.reply(**more)
        finally:
            client.close()

    def chat(self, timeout: float = 5.0, **fields: Any) -> Reply:
        body = chat_body(**fields)
        return self.request("POST", "/v1/chat/completions", body, timeout=timeout)

    def stats(self) -> Any:
        return self.request("GET", "/stats").json

    def until(self, holds: Callable[[Any], bool], seconds: float = 2.0) -> Any:
        deadline = time.monotonic() + seconds
        while not holds(stats := self.stats()):
            assert time.monotonic() < deadline, stats
            time.sleep(0.01)
        return stats


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"model": "sim", "messages": [USER]} | fields).encode()


def start() -> Sim:
    command = [sys.executable, "-m", "workers.sim"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(timeout=10), "sim did not start"
    host, port = json.loads(process.stdout.readline())["listening"].split(":")
    return Sim(process, (host, int(port)))
