"""`millrace up`: everything on one machine, as child processes in the right order.

Start: nats-server, then broker, edge, workers and sim side by side. End: edge (finishes what it
accepted), workers, broker, sim, nats-server. Nothing here imports a child's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from broker import subjects
from broker.bus import Bus, BusError
from broker.bus.keyring import Keyring
from broker.bus.mirror import Mirror
from broker.bus.survey import reach, workers_in
from broker.child import Child, ChildError, Program
from broker.config import Address, NatsSettings, Settings, child_environment
from broker.embedded import EmbeddedError, EmbeddedNats
from broker.provider_config import DISABLED
from broker.rundir import RunFolder, RunFolderError

# What each role runs; a worker gets its provider's name, sim where to listen, as last arguments.
COMMANDS: Mapping[str, Sequence[str]] = {
    "broker": (sys.executable, "-m", "broker"),
    "edge": (sys.executable, "-m", "edge"),
    "worker": (sys.executable, "-m", "workers"),
    "sim": (sys.executable, "-m", "workers.sim"),
}
DRAIN_ORDER = ("edge", "worker", "broker", "sim", "nats")
SIM = "sim"
SIM_LISTENS = '{"listening"'
# Added to the grace of a draining child before it is killed, in seconds.
DRAIN_MARGIN_S = 5.0
# How long the embedded NATS may take to start, and one that exists to answer, in seconds.
NATS_READY_S = 10.0
NATS_FOUND_S = 5.0
# After so long without an answer from /readyz the user is told what is waited for, in seconds.
PATIENCE_S = 15.0
# Two signals closer than this are one Ctrl-C that took two ways (the terminal, and make).
DEBOUNCE_S = 0.3


class SupervisorError(Exception):
    """`up` cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    """What to tell the user once requests are served."""

    http: Address
    grpc: Address
    api_key: str
    providers: tuple[str, ...]
    providers_off: Mapping[str, str]


class Supervisor:
    """Runs a whole Millrace until told to stop.

    Args:
        settings: for all processes; port 0 of `http` and `grpc` means any free port.
        say: takes a line for the user, `pass_on` a line that a child wrote.
        announce: called once, when requests are served.
        commands: what each role runs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        say: Callable[[str], None],
        pass_on: Callable[[str], None],
        announce: Callable[[Running], None],
        commands: Mapping[str, Sequence[str]] = COMMANDS,
    ) -> None:
        self._settings = settings
        self._say = say
        self._pass_on = pass_on
        self._announce = announce
        self._commands = commands
        self._folder = RunFolder(settings.data)
        self._children: list[Child] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._given_up: set[Child] = set()
        self._stop = asyncio.Event()
        self._signalled_at = 0.0

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP; raises `SupervisorError`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Whoever started us with nohup wants us to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal)
        try:
            self._folder.open()
            starting = asyncio.ensure_future(self._start())
            try:
                await self._until_stopped(starting)
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                await self._drain()
        except (RunFolderError, EmbeddedError, BusError, ChildError) as exc:
            raise SupervisorError(str(exc)) from exc
        finally:
            self._folder.close()

    async def _until_stopped(self, starting: asyncio.Future[None]) -> None:
        """Wait for the signal to stop; raises when starting fails or a child cannot be kept."""
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            while not stop.done():
                watched: set[asyncio.Future[Any]] = {starting, *self._tasks}
                for ended in (future for future in watched if future.done()):
                    ended.result()
                watched = {stop, *(future for future in watched if not future.done())}
                # Starting adds children, hence the time limit.
                await asyncio.wait(watched, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def _start(self) -> None:
        settings = _with_free_ports(self._settings)
        if settings.nats.url is None:
            settings = dataclasses.replace(settings, nats=await self._start_nats(settings))
        else:
            await self._check_nats(settings)
        self._folder.write_nats_url(_url_with_credentials(settings.nats))
        self._launch(self._program("broker", "broker", settings))
        self._launch(self._program("edge", "edge", settings))
        for name in settings.providers:
            self._launch(self._program("worker", name, settings, name))
        providers = list(settings.providers)
        if settings.providers_off.get(SIM, DISABLED) != DISABLED:
            providers.append(SIM)
            await self._start_sim(settings)
        api_key = await self._settle(settings, providers)
        await self._until_ready(settings)
        off = {name: why for name, why in settings.providers_off.items() if name != SIM}
        self._announce(Running(settings.http, settings.grpc, api_key, tuple(providers), off))

    async def _start_nats(self, settings: Settings) -> NatsSettings:
        port = settings.nats.port
        if port:
            _bind(Address("127.0.0.1", port), "nats.port or MILLRACE_NATS_PORT").close()
        nats = EmbeddedNats(settings.data, port=port, sync_always=settings.sync_always)
        nats.prepare()
        child = self._launch(
            Program(
                "nats",
                "nats",
                command=nats.prepare,
                # One core serves far more than Python's processes ask of it, and a server that
                # spreads small work over several spends a fifth more, mostly on waking threads.
                env={"GOMAXPROCS": "1", **child_environment(settings)},
                shows=lambda line: "[ERR]" in line or "[FTL]" in line,
            )
        )
        deadline = asyncio.get_running_loop().time() + NATS_READY_S
        while child.pid is None or not nats.ready(child.pid):
            if asyncio.get_running_loop().time() > deadline:
                lines = "\n".join(f"  {line}" for line in child.tail)
                raise SupervisorError(f"nats-server is not ready; its last lines:\n{lines}")
            await asyncio.sleep(0.01)
        return nats.settings()

    async def _check_nats(self, settings: Settings) -> None:
        bus = await reach(settings.nats, name="up", patience_s=NATS_FOUND_S)
        try:
            await bus.check_server()
        finally:
            await bus.close()

    async def _start_sim(self, settings: Settings) -> None:
        """The sim server, then a worker that knows its address."""
        # The first start chooses a port; the worker knows that one, so later starts keep it.
        listen = ["--host", "127.0.0.1", "--port", "0"]
        command = [*self._commands["sim"]]
        child = self._launch(
            Program("sim", "sim", lambda: [*command, *listen], child_environment(settings))
        )
        line = await child.line_starting(SIM_LISTENS)
        address = str(json.loads(line)["listening"])
        listen[3] = address.rpartition(":")[2]
        worker = self._program("worker", SIM, settings, SIM)
        env = {**worker.env, "SIM_BASE_URL": f"http://{address}/v1"}
        self._launch(dataclasses.replace(worker, env=env))

    def _program(self, role: str, name: str, settings: Settings, *providers: str) -> Program:
        command = [*self._commands[role], *providers]
        env = child_environment(settings, providers)
        if settings.log.format == "auto" and sys.stderr.isatty():
            # The child writes to a pipe, and would take that for a machine reading along.
            env["MILLRACE_LOG_FORMAT"] = "pretty"
        return Program(role, name, lambda: command, env)

    def _launch(self, program: Program) -> Child:
        child = Child(program, say=self._say, pass_on=self._pass_on, changed=self._write_processes)
        self._children.append(child)
        self._tasks.add(asyncio.ensure_future(self._keep(child)))
        return child

    async def _keep(self, child: Child) -> None:
        """Run a child; without the worker of one provider the others can still be served."""
        try:
            await child.run()
        except ChildError as exc:
            self._given_up.add(child)
            workers = {c for c in self._children if c.program.role == "worker"}
            if child not in workers or workers <= self._given_up:
                raise
            self._say(f"{exc}\n{child.program.title} is left off; the rest goes on")
            await self._stop.wait()

    def _write_processes(self) -> None:
        self._folder.write_processes(
            [
                {"role": child.program.role, "name": child.program.name, "pid": child.pid}
                for child in self._children
                if child.pid is not None
            ]
        )

    async def _settle(self, settings: Settings, providers: Sequence[str]) -> str:
        """The API key that works, once a worker of each provider has said that it is there."""
        bus = await reach(settings.nats, name="up", patience_s=NATS_READY_S)
        try:
            await bus.check_server()
            api_key = await self._api_key(bus, settings.api_key)
            workers = Mirror(bus, subjects.WORKERS)
            try:
                await workers.start()
                await self._until_present(workers, set(providers))
            finally:
                await workers.close()
            return api_key
        finally:
            await bus.close()

    async def _until_present(self, workers: Mirror, providers: set[str]) -> None:
        """Wait for a worker of each provider; one that is late is told of and not waited for."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while missing := providers - {lease.provider for lease in workers_in(workers)}:
            if asyncio.get_running_loop().time() > deadline:
                self._say(f"no worker yet for {', '.join(sorted(missing))}")
                return
            await asyncio.sleep(0.02)

    async def _api_key(self, bus: Bus, given: str | None) -> str:
        keyring = Keyring(bus)
        if given:
            if (await keyring.add(given, "MILLRACE_API_KEY")).revoked:
                raise SupervisorError("the key in MILLRACE_API_KEY was revoked: choose another")
            return given
        kept = self._folder.api_key()
        if kept and not (await keyring.add(kept, "up")).revoked:
            return kept
        secret, _ = await keyring.create("up")
        self._folder.write_api_key(secret)
        return secret

    async def _until_ready(self, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + PATIENCE_S
        while (answer := await _ask_ready(settings.http.reachable))[0] != 200:
            if loop.time() > tell_at:
                self._say(f"still waiting for /readyz: {answer[1] or 'no answer'}")
                tell_at = loop.time() + PATIENCE_S
            await asyncio.sleep(0.05)

    async def _drain(self) -> None:
        """End all children, in the order in which none of them needs one that is gone."""
        grace = self._settings.limits.drain_grace_s
        if any(child.pid for child in self._children):
            self._say(f"stopping (up to {grace:.0f} s; Ctrl-C again to stop at once)")
        # A kill must not leave an entry of the list behind, so every role is waited for.
        for role in DRAIN_ORDER:
            children = [child for child in self._children if child.program.role == role]
            await asyncio.gather(*(child.stop(grace + DRAIN_MARGIN_S) for child in children))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_signal(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._stop.is_set():
            self._signalled_at = now
            self._stop.set()
        elif now - self._signalled_at > DEBOUNCE_S:
            for child in self._children:
                child.kill()


def _with_free_ports(settings: Settings) -> Settings:
    """The settings with real ports; raises when one of them cannot be listened on."""
    with contextlib.ExitStack() as held:
        http = held.enter_context(_bind(settings.http, "--http or MILLRACE_HTTP"))
        grpc = held.enter_context(_bind(settings.grpc, "--grpc or MILLRACE_GRPC"))
        if settings.advertise:
            own = Address("", settings.advertise.port)
            held.enter_context(_bind(own, "--advertise or MILLRACE_ADVERTISE"))
        return dataclasses.replace(
            settings,
            http=Address(settings.http.host, http.getsockname()[1]),
            grpc=Address(settings.grpc.host, grpc.getsockname()[1]),
        )


def _bind(address: Address, names: str) -> socket.socket:
    """A socket bound to the address, or an error that names the setting."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # As the servers do: connections of an earlier run may linger on the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(1)
        except OSError:
            sock.close()
            raise
    except OSError as exc:
        raise SupervisorError(
            f"cannot listen on {address}: {os.strerror(exc.errno or 0).lower()}; "
            f"stop what uses it, or choose another address with {names}"
        ) from exc
    return sock


def _url_with_credentials(nats: NatsSettings) -> str:
    """The URLs of NATS with user and password, or token, in each."""
    who = ":".join(quote(part, safe="") for part in (nats.user, nats.password) if part)
    who = who or quote(nats.token or "", safe="")
    if not who:
        return ",".join(nats.servers)
    return ",".join(url.replace("://", f"://{who}@", 1) for url in nats.servers)


async def _ask_ready(address: Address) -> tuple[int, str]:
    """Status and body of GET /readyz; (0, "") while nobody answers."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(
                    f"GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode()
                )
                head, _, body = (await reader.read(65536)).partition(b"\r\n\r\n")
                return int(head.split(None, 2)[1]), body.decode(errors="replace").strip()
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0, ""
