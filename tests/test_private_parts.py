"""The private parts of libraries that are used are still there.

pyproject.toml bounds these libraries; whoever raises a bound learns here what is gone, by its name.
That the parts still do what they did is shown by the tests of the modules that use them.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from edge.http.protocol import Connection


async def _unused(_scope: object, _receive: object, _send: object) -> None:
    """Stands for an application, which none of this calls."""


def _names(part: object) -> set[str]:
    return {*dir(part), *getattr(part, "__slots__", ())}


def _names_of(kind: type) -> set[str]:
    """The same of what is made of a class, without making one."""
    return {*dir(kind), *kind.__init__.__code__.co_names}  # type: ignore[misc]


WATCHER: object = KeyValue.KeyWatcher(None)  # type: ignore[no-untyped-call]
# What is used | of what | by which module
NATS = [
    (Client(), "_flush_pending", "broker/bus/connection.py, atomic.py"),
    (Client(), "_flush_queue", "broker/bus/connection.py"),
    (Client(), "_flusher_task", "broker/bus/connection.py"),
    (Client(), "_pending", "broker/bus/connection.py"),
    (Client(), "_pending_data_size", "broker/bus/connection.py"),
    (Client(), "_remove_sub", "broker/bus/queue.py"),
    (Client(), "_server_info", "broker/bus/connection.py"),
    (Subscription(Client()), "_id", "broker/bus/queue.py"),
    (WATCHER, "_sub", "broker/bus/mirror.py"),
    (WATCHER, "_updates", "broker/bus/mirror.py, batches.py"),
]


@pytest.mark.parametrize(("part", "name", "user"), NATS)
def test_nats_py_has_what_is_used_of_its_insides(part: object, name: str, user: str) -> None:
    assert name in _names(part), f"nats-py has no {name} any more; {user} uses it"


def test_what_is_pending_in_nats_py_is_a_list_of_commands_and_their_size() -> None:
    client = Client()
    assert client._pending == []
    assert client._pending_data_size == 0


def test_nats_py_still_does_without_aiohttp() -> None:
    script = "import sys; from broker.bus import lean; assert 'aiohttp' not in sys.modules; lean.use_websockets()"
    script += "; from nats.aio import transport; assert transport.aiohttp.__name__ == 'aiohttp'"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# What edge/http/protocol.py overrides is called by uvicorn under these names.
OVERRIDDEN = sorted(name for name in vars(Connection) if name in vars(HttpToolsProtocol))
NEEDED = [
    "_start_asgi_task",
    "_unsupported_upgrade_warning",
    "connection_lost",
    "connection_made",
    "data_received",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "pause_writing",
    "resume_writing",
    "send_400_response",
    "timeout_keep_alive_handler",
]
FIELDS = ["app", "cycle", "flow", "headers", "loop", "pipeline", "scope", "transport"]
CYCLE = [
    "default_headers",
    "disconnected",
    "flow",
    "keep_alive",
    "message_event",
    "on_response",
    "response_complete",
    "response_started",
    "scope",
    "send",
    "transport",
    "waiting_for_100_continue",
]
FLOW = ["drain", "resume_reading", "write_paused"]


@pytest.mark.parametrize("name", NEEDED)
def test_uvicorn_calls_its_protocol_by_the_names_that_are_overridden(name: str) -> None:
    assert hasattr(HttpToolsProtocol, name), f"uvicorn has no {name} any more"


def test_no_override_is_left_out_here() -> None:
    assert [name for name in OVERRIDDEN if not name.startswith("__")] == sorted(NEEDED)


async def test_uvicorn_keeps_what_a_connection_reads_of_it() -> None:
    config = Config(_unused, interface="asgi3")
    config.load()
    protocol = HttpToolsProtocol(config, ServerState(), {})
    assert [name for name in FIELDS if name not in _names(protocol)] == []
    protocol.on_message_begin()
    assert "url" in _names(protocol)
    assert [name for name in CYCLE if name not in _names_of(RequestResponseCycle)] == []
    assert [name for name in FLOW if name not in _names_of(FlowControl)] == []
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_errors_of_jetstream_are_errors_of_nats() -> None:
    assert issubclass(JetStreamError, NatsError), "broker/bus catches NatsError for both"
