"""Serves the simulator over HTTP/1.1 on bare asyncio, without a framework: it feeds benchmarks."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import httptools
import orjson

from broker.wallclock import now
from workers.sim.allowed import Allowed, limits_of
from workers.sim.answer import Answer, answer_to
from workers.sim.audio import SCRIPTS
from workers.sim.knobs import BadRequestError
from workers.sim.legacy import completion_to
from workers.sim.playback import Playback
from workers.sim.script import Play, Script, busy, plain, play_of, refusal, script_of
from workers.sim.stats import Stats
from workers.sim.vectors import ANSWERS
from workers.sim.wire import stamped

BODY_LIMIT = 64 << 20
_COMPLETIONS = b"/v1/completions"
_MODELS = ("sim", "echo")
# Equal bodies get equal plays, so a benchmark's are worked out once.
_REMEMBERED_PLAYS = 256
_REMEMBERED_BYTES = 65536


class Simulator:
    """What all connections share: counters, fault keys, remembered plays."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.open = 0
        self.connections = 0
        self.calls_by_key: Counter[str] = Counter()
        self.open_by_key: Counter[str] = Counter()
        self.allowed: dict[str, Allowed] = defaultdict(Allowed)
        self.call_number = 0
        self._plays: dict[bytes, Play] = {}

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    def play(self, body: bytes, answer: Callable[[bytes, int], Answer] = answer_to) -> Play:
        """The play for a chat request, or for a completion where `answer` is its.

        Raises:
            BadRequestError: the body is not a request the simulator takes.
        """
        key = body if answer is answer_to else b"completion " + body
        play = self._plays.get(key)
        if play is None:
            play = play_of(body, self.call_number, answer)
            size = len(body) + sum(len(frame.wire) for frame in play.script.frames)
            if play.keepable and size <= _REMEMBERED_BYTES:
                if len(self._plays) >= _REMEMBERED_PLAYS:
                    self._plays.clear()
                self._plays[key] = play
        return play

    def script(self, play: Play) -> Script:
        """The script this call of the play's key gets; counts the call."""
        most = play.knobs.max_open
        if most is not None and self.open_by_key[play.key] >= most:
            return busy(play.script.model, most)
        if play.first_n is None:
            return play.script
        self.calls_by_key[play.key] += 1
        return play.script if self.calls_by_key[play.key] <= play.first_n else play.healed

    def reset(self) -> None:
        """Forgets all counts; how calls that are under way end is no longer counted."""
        self.stats = Stats()
        self.calls_by_key.clear()


class Connection(asyncio.Protocol):
    """One keep-alive connection: reads a request, plays its answer, one at a time."""

    __slots__ = (
        "_allowed",
        "_body",
        "_call",
        "_complete",
        "_keep_alive",
        "_parser",
        "_playback",
        "_sim",
        "_size",
        "_transport",
        "_url",
        "_writable",
    )
    _transport: asyncio.Transport

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._parser = httptools.HttpRequestParser(self)
        self._playback: Playback | None = None
        self._call: tuple[Stats, Script, str | None] | None = None
        self._allowed: Allowed | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._size = 0
        self._complete = True
        self._keep_alive = True
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._sim.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._sim.connections -= 1
        if self._playback is not None:
            self._playback.stop()
            self._end("aborted")

    def pause_writing(self) -> None:
        self._writable = False
        if self._playback is not None:
            self._playback.pause()

    def resume_writing(self) -> None:
        self._writable = True
        if self._playback is not None:
            self._playback.resume()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserCallbackError:
            raise  # ours, not the peer's
        except httptools.HttpParserError:
            self._answer(refusal(BadRequestError("the request is not HTTP/1.1")))
            self._transport.close()
        else:
            if not self._complete and not self._body and b"100-continue" in data.lower():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = b""
        self._body.clear()
        self._size = 0
        self._complete = False
        if self._playback is not None:  # pipelining, which nobody here does
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= BODY_LIMIT:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = True
        if self._transport.is_closing():
            return
        self._keep_alive = self._parser.should_keep_alive()
        if self._size > BODY_LIMIT:
            message = f"the body is larger than {BODY_LIMIT} bytes"
            self._answer(refusal(BadRequestError(message, status=413, code="request_too_large")))
            return
        path = self._url.partition(b"?")[0]
        method = self._parser.get_method()
        route = _ROUTES.get((method, path))
        if route is not None:
            route(self)
        elif any(path == known for _, known in _ROUTES):
            message = f"{method.decode()} is not allowed here"
            self._answer(refusal(BadRequestError(message, status=405)))
        else:
            message = f"no such path: {path.decode(errors='replace')}"
            self._answer(refusal(BadRequestError(message, status=404)))

    # The routes.

    def completions(self) -> None:
        """POST /v1/chat/completions and /v1/completions."""
        sim = self._sim
        sim.call_number += 1
        key: str | None = None
        try:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            legacy = self._url.partition(b"?")[0] == _COMPLETIONS
            play = sim.play(body, completion_to) if legacy else sim.play(body)
            script = sim.script(play)
            key = play.key if play.knobs.max_open is not None else None
            limits = limits_of(play.knobs)
            if limits is not None:
                self._allowed = sim.allowed[play.key]
                now = asyncio.get_running_loop().time()
                script, let_in = self._allowed.begin(script, limits, now)
                if not let_in:
                    self._allowed = None
        except BadRequestError as error:
            script = refusal(error)
        if key is not None:
            sim.open_by_key[key] += 1
        self._play(script, key)

    def _play(self, script: Script, key: str | None = None) -> None:
        sim = self._sim
        self._body.clear()
        self._call = (sim.stats, script, key)
        sim.open += 1
        sim.stats.begin(script, sim.open)
        self._playback = Playback(self._transport, script, sim.call_number, now(), self._end)
        if not self._writable:
            self._playback.pause()
        self._playback.advance()

    def others(self) -> None:
        """POST to what is not a chat, such as embeddings and audio."""
        self._sim.call_number += 1
        try:
            path, body = self._url.partition(b"?")[0], b"".join(self._body)
            audio = SCRIPTS.get(path)
            script = script_of(ANSWERS[path], body) if audio is None else audio(body)
        except BadRequestError as error:
            script = refusal(error)
        self._play(script)

    def models(self) -> None:
        """GET /v1/models."""
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "sim"} for name in _MODELS
        ]
        self._answer(plain(200, orjson.dumps({"object": "list", "data": models})))

    def healthz(self) -> None:
        """GET /healthz."""
        self._answer(plain(200, b'{"status":"ok"}'))

    def stats(self) -> None:
        """GET /stats."""
        sim = self._sim
        now = {"open": sim.open, "connections": sim.connections}
        self._answer(plain(200, orjson.dumps(now | sim.stats.report())))

    def reset(self) -> None:
        """POST /stats/reset."""
        self._sim.reset()
        self.stats()

    def _answer(self, script: Script) -> None:
        for frame in script.frames:
            self._transport.write(stamped(frame.wire, self._sim.call_number, 0))
        if not self._keep_alive:
            self._transport.close()

    def _end(self, outcome: str) -> None:
        if self._call is None or self._playback is None:
            return
        stats, script, key = self._call
        self._sim.open -= 1
        stats.end(outcome, script, self._playback.tokens)
        if key is not None:
            self._sim.open_by_key[key] -= 1
        if self._allowed is not None:
            self._allowed.end()
            self._allowed = None
        self._call = self._playback = None
        if outcome == "finished" and not self._keep_alive:
            self._transport.close()


_ROUTES: Mapping[tuple[bytes, bytes], Callable[[Connection], None]] = {
    (b"POST", b"/v1/chat/completions"): Connection.completions,
    (b"POST", _COMPLETIONS): Connection.completions,
    **{(b"POST", path): Connection.others for path in (*ANSWERS, *SCRIPTS)},
    (b"GET", b"/v1/models"): Connection.models,
    (b"GET", b"/healthz"): Connection.healthz,
    (b"GET", b"/stats"): Connection.stats,
    (b"POST", b"/stats/reset"): Connection.reset,
}
