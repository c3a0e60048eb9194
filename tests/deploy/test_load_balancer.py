"""The load balancer's configuration, run by the real HAProxy in front of stand-in edges."""

from __future__ import annotations

import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import pytest

from tests.ports import free_port

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")

ECHO = "/stand.in.Edge/Echo"


def eventually(true: Callable[[], bool], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def closed(connection: socket.socket, within_s: float) -> bool:
    """Whether the other side has closed or reset the connection."""
    readable, _, _ = select.select([connection], [], [], within_s)
    try:
        return bool(readable) and not connection.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Health checks are cut off once the status is known."""


class Edge:
    """A stand-in edge: its name is its answer, and its readiness is a switch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.calls = 0
        self.hung_up = threading.Event()
        self._release = threading.Event()
        edge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, body: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def do_GET(self) -> None:
                if self.path == "/readyz":
                    return self.answer(200 if edge.ready else 503, "")
                if self.path == "/healthz":
                    return self.answer(200, "")
                edge.calls += 1
                return self.answer(200 if edge.ready else 503, edge.name)

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                self.rfile.read(size)
                edge.calls += 1
                if self.path == "/cut":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                elif self.path == "/wait":
                    while not edge._release.is_set():
                        if closed(self.connection, within_s=0.02):
                            edge.hung_up.set()
                            break
                    self.close_connection = True
                else:
                    self.answer(200, f"{edge.name} {size} {len(self.headers.get('x-long', ''))}")

        self.http = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        echo = grpc.method_handlers_generic_handler(
            "stand.in.Edge",
            {"Echo": grpc.stream_stream_rpc_method_handler(self._echo)},
        )
        self.grpc = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)]
        )
        self.grpc.add_generic_rpc_handlers((echo,))
        self.grpc_port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()

    def _echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield self.name.encode() + b" " + request

    def stop(self) -> None:
        self._release.set()
        self.grpc.stop(0).wait()
        self.http.shutdown()
        self.http.server_close()


class Balancer:
    """HAProxy with deploy/haproxy.cfg; only addresses are changed."""

    def __init__(self, http: str, grpc_address: str) -> None:
        self.http = http
        self.grpc = grpc_address


def local_configuration(text: str, edges: list[Edge], http: int, grpc_port: int, alive: int) -> str:
    """The configuration with the name `edge` replaced by the stand-ins' addresses."""

    def servers(match: re.Match[str]) -> str:
        port, options = match.groups()
        rest = options.replace("resolvers docker init-addr none", "")
        lines = []
        for edge in edges:
            address = edge.http.server_port if port == "8000" else edge.grpc_port
            own = rest.replace("port 8000", f"port {edge.http.server_port}")
            lines.append(f"  server {edge.name} 127.0.0.1:{address} {own}")
        return "\n".join(lines)

    text, count = re.subn(
        r"^  server-template edge \d+ edge:(\d+)(.*)$", servers, text, flags=re.MULTILINE
    )
    assert count == 4
    for written, ours in ((":8000", http), (":8001", grpc_port), ("127.0.0.1:8404", alive)):
        assert f"bind {written}" in text
        text = re.sub(rf"bind {written}\b", f"bind 127.0.0.1:{ours}", text)
    return text


@contextmanager
def balancer(root: Path, folder: Path, edges: list[Edge]) -> Iterator[Balancer]:
    http, grpc_port, alive = free_port(), free_port(), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        local_configuration(
            (root / "deploy/haproxy.cfg").read_text(), edges, http, grpc_port, alive
        )
    )
    process = subprocess.Popen(["haproxy", "-db", "-f", config], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{alive}/alive"))
        yield Balancer(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc_port}")
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def edges() -> Iterator[list[Edge]]:
    with ExitStack() as stack:
        made = [Edge("one"), Edge("two")]
        for edge in made:
            stack.callback(edge.stop)
        yield made


@pytest.fixture
def front(root: Path, tmp_path: Path, edges: list[Edge]) -> Iterator[Balancer]:
    with balancer(root, tmp_path, edges) as running:
        yield running


def test_haproxy_accepts_the_configuration_as_it_is_written(root: Path) -> None:
    checked = subprocess.run(
        ["haproxy", "-c", "-f", root / "deploy/haproxy.cfg"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_requests_are_spread_over_the_edges(front: Balancer) -> None:
    with httpx.Client() as client:
        assert {client.get(front.http + "/").text for _ in range(8)} == {"one", "two"}


def test_an_edge_that_is_not_ready_gets_no_requests(front: Balancer, edges: list[Edge]) -> None:
    edges[0].ready = False
    with httpx.Client() as client:
        eventually(lambda: {client.get(front.http + "/").text for _ in range(4)} == {"two"})
        assert {client.get(front.http + "/").status_code for _ in range(8)} == {200}


def test_when_no_edge_is_ready_the_edges_say_why(front: Balancer, edges: list[Edge]) -> None:
    for edge in edges:
        edge.ready = False
    # HAProxy's own 503 would be HTML; until it has noticed, edges answer for themselves too.
    end = time.monotonic() + 6
    with httpx.Client() as client:
        while time.monotonic() < end:
            answer = client.get(front.http + "/")
            assert (answer.status_code, answer.text in ("one", "two")) == (503, True)
            time.sleep(0.1)


def test_an_edge_that_died_is_replaced_without_an_error(front: Balancer, edges: list[Edge]) -> None:
    edges[0].http.shutdown()
    edges[0].http.server_close()
    for _ in range(8):
        assert httpx.get(front.http + "/").text == "two"


def test_a_client_that_hangs_up_is_felt_by_the_edge_at_once(
    front: Balancer, edges: list[Edge]
) -> None:
    with socket.create_connection(("127.0.0.1", int(front.http.rpartition(":")[2]))) as client:
        client.sendall(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        eventually(lambda: sum(edge.calls for edge in edges) == 1)
        assert not any(edge.hung_up.is_set() for edge in edges)
    eventually(lambda: any(edge.hung_up.is_set() for edge in edges), within_s=1)


def test_a_request_that_reached_an_edge_is_never_sent_to_another(
    front: Balancer, edges: list[Edge]
) -> None:
    answer = httpx.post(front.http + "/cut", content=b"{}")
    assert answer.status_code == 502
    assert sum(edge.calls for edge in edges) == 1


def test_large_bodies_and_long_headers_pass(front: Balancer) -> None:
    answer = httpx.post(
        front.http + "/", content=bytes(32 << 20), headers={"x-long": "x" * 60_000}, timeout=30
    )
    assert answer.text.split()[1:] == [str(32 << 20), "60000"]


def test_grpc_streams_both_ways_are_spread_over_the_edges(front: Balancer) -> None:
    with grpc.insecure_channel(front.grpc) as channel:
        echo: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(ECHO)
        ends = [
            list(echo(iter([b"a", bytes(8000)]), timeout=10, wait_for_ready=True)) for _ in range(8)
        ]
    assert all([len(item) for item in answer] == [5, 8004] for answer in ends)
    assert {answer[0] for answer in ends} == {b"one a", b"two a"}


def test_grpc_goes_to_ready_edges_only(front: Balancer, edges: list[Edge]) -> None:
    edges[1].ready = False
    with grpc.insecure_channel(front.grpc) as channel:
        echo: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(ECHO)

        def reached() -> set[bytes]:
            return {next(iter(echo(iter([b"a"]), timeout=10))) for _ in range(4)}

        eventually(lambda: reached() == {b"one a"})
