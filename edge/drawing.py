"""One answer of several exchanges: the model is asked, what it wants drawn is drawn, and so on.

Each part has its own place in the queue and its own charge. To whoever reads it is one exchange,
whose items are numbered through and whose usage is that of the model; pictures are charged where
they are drawn. It lives with its edge: if that is lost, so is the answer (R7).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from broker.answer import Fold
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate import hosted_images
from broker.translate.hosted_images import FUNCTION, TYPE, ImageTool
from broker.usage import total
from broker.v1 import content_pb2, event_pb2, generation_pb2
from edge.seams import ExchangeLike, PartsLike

# How often a model may have drawn before it has to come to an end.
_MOST_ROUNDS = 8
# What ends the whole answer, rather than one picture.
_FATAL = frozenset({"client_gone", "deadline", "draining", "broker_unavailable"})
_ENDS_WELL = (event_pb2.FINISH_REASON_TOOL_CALLS, event_pb2.FINISH_REASON_STOP)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """On which all parts of an answer run."""

    engine: PartsLike
    key: KeyRecord
    request_id: str
    timeout_s: float
    alias: str
    provider_key: str | None


@dataclass(slots=True)
class _Call:
    """A call of the function: what it is called with, and what came of it."""

    id: str
    arguments: bytes
    item: int
    result: str = ""


class Drawing:
    """An exchange that is made of several. `begin` it before anything else."""

    def __init__(
        self, terms: Terms, request: generation_pb2.Request, tool: ImageTool, model: str
    ) -> None:
        self._terms = terms
        self._asked = request
        self._tool = tool
        self._model = model
        self._request = hosted_images.with_function(request, tool)
        asked = request.generate
        self._most = asked.max_tool_calls if asked.HasField("max_tool_calls") else _MOST_ROUNDS
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + terms.timeout_s
        self._first: ExchangeLike
        self._current: ExchangeLike
        self._parts = 0
        self._drawn = 0
        self._latest: content_pb2.InlineData | None = None
        self._ready: list[event_pb2.Event] = []
        self._over = False
        self._started = False
        self._usages: list[event_pb2.Usage] = []
        # Items are numbered through: of this round they begin here, and the next ones there.
        self._base = self._items = 0
        # Calls that are shown, of all rounds.
        self._shown = 0
        self._waiting: deque[_Call] = deque()
        self._new_round()

    async def begin(self) -> None:
        """Ask the model. Raises `InferenceError` when it is refused."""
        self._first = self._current = await self._submit(self._request)
        self._terms.engine.hold(self)

    @property
    def request_id(self) -> str:
        """Of the whole."""
        return self._terms.request_id

    @property
    def answer_id(self) -> str:
        """Of the whole: that of its first part."""
        return self._first.answer_id

    @property
    def created(self) -> int:
        """When the first part was accepted, in Unix seconds."""
        return self._first.created

    @property
    def route(self) -> str:
        """How the model's place was decided."""
        return self._first.route

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Nothing goes past `next`: events are renumbered there."""

    def close(self) -> None:
        """The caller is done or gone."""
        self._over = True
        self._terms.engine.let_go(self)
        self._current.close()

    async def next(self) -> Sequence[event_pb2.Event]:
        """The next events, at least one; empty after `completed`. Raises `InferenceError`."""
        while not self._ready:
            if self._over:
                return ()
            await self._advance()
        batch, self._ready = self._ready, []
        return batch

    async def _submit(self, request: generation_pb2.Request) -> ExchangeLike:
        """The next part of the answer, in the time that is left."""
        terms, number = self._terms, self._parts
        self._parts += 1
        left = self._deadline - self._loop.time()
        if left <= 0:
            raise InferenceError("deadline", "the deadline passed", phase="content")
        return await terms.engine.submit(
            request,
            terms.key,
            request_id=f"{terms.request_id}-{number}" if number else terms.request_id,
            timeout_s=left,
            alias=terms.alias,
            # The caller's own key is for the model's provider.
            provider_key=terms.provider_key if request.HasField("generate") else None,
            accepted=number > 0,
        )

    # --- the model ---

    def _new_round(self) -> None:
        self._fold = Fold()
        self._base = self._items
        self._numbers: dict[int, int] = {}
        self._calls: dict[int, _Call] = {}
        self._finished: event_pb2.Event | None = None
        self._advance = self._listen

    async def _listen(self) -> None:
        """Take in more of what the model says."""
        for event in await self._current.next():
            self._fold.feed((event,))
            kind = event.WhichOneof("kind") or ""
            if kind == "started":
                if not self._started:
                    self._started = True
                    self._ready.append(event)
            elif kind == "choice_finished":
                self._finished = event
            elif kind == "completed":
                self._usages.append(event.completed.usage)
                self._end_round(event)
            elif kind != "tool_call" or self._show_call(event.tool_call):
                self._number(getattr(event, kind))
                self._ready.append(event)

    def _number(self, delta: Any) -> None:
        if hasattr(delta, "item"):
            delta.item += self._base
            self._items = max(self._items, delta.item + 1)

    def _show_call(self, delta: event_pb2.ToolCallDelta) -> bool:
        """Whether a piece of a call is for the caller; calls of the function are kept."""
        if (known := self._calls.get(delta.index)) is not None:
            known.arguments += delta.arguments.encode()
            return False
        if delta.index not in self._numbers:
            if delta.name == FUNCTION:
                self._calls[delta.index] = _Call(
                    delta.call_id, delta.arguments.encode(), delta.item + self._base
                )
                return False
            self._numbers[delta.index] = self._shown
            self._shown += 1
        delta.index = self._numbers[delta.index]
        return True

    def _end_round(self, completed: event_pb2.Event) -> None:
        reason = self._finished.choice_finished.reason if self._finished is not None else 0
        if self._calls and reason in _ENDS_WELL and self._most > 0:
            calls = list(self._calls.values())
            self._waiting.extend(calls[: self._most])
            for call in calls[self._most :]:
                call.result = hosted_images.failed_text("there may be no more of them")
            self._items = max(self._items, 1 + max(call.item for call in self._calls.values()))
            self._advance = self._draw
            self._last = completed
            return
        self._end(completed)

    def _end(self, completed: event_pb2.Event) -> None:
        if self._finished is not None:
            if self._finished.choice_finished.reason in _ENDS_WELL:
                self._finished.choice_finished.reason = (
                    event_pb2.FINISH_REASON_TOOL_CALLS
                    if self._numbers
                    else event_pb2.FINISH_REASON_STOP
                )
            self._ready.append(self._finished)
        completed.completed.usage.CopyFrom(total(self._usages))
        if self._drawn:
            completed.completed.usage.tool_calls[TYPE] += self._drawn
        self._ready.append(completed)
        self._over = True

    # --- pictures ---

    async def _draw(self) -> None:
        """Begin the next picture; when all are there, ask the model again."""
        if not self._waiting:
            await self._ask_again()
            return
        call = self._waiting[0]
        self._item = self._items
        self._items += 1
        begun = event_pb2.Event()
        begun.image.item = self._item
        begun.image.partial = True
        self._ready.append(begun)
        self._advance = partial(self._attempt, call)

    async def _attempt(self, call: _Call) -> None:
        try:
            request = hosted_images.image_request(
                self._asked, self._tool, call.arguments, self._model, self._latest
            )
            self._current = await self._submit(request)
        except InferenceError as exc:
            self._fail(call, exc)
            return
        self._advance = partial(self._look, call)

    async def _look(self, call: _Call) -> None:
        """Take in more of a picture."""
        try:
            batch = await self._current.next()
        except InferenceError as exc:
            self._fail(call, exc)
            return
        for event in batch:
            kind = event.WhichOneof("kind")
            if kind == "image_facts":
                self._ready.append(event)
            elif kind == "image" and (event.image.partial or not call.result):
                event.image.choice, event.image.item = 0, self._item
                if not event.image.partial:
                    # Where it stands among the parts of the answer.
                    event.image.partial_index = 0
                    call.result = hosted_images.drawn_text(event.image.revised_prompt)
                    if event.image.HasField("image"):
                        self._latest = event.image.image
                self._ready.append(event)
            elif kind == "completed" and call.result:
                self._drawn += 1
                self._next_picture()
            elif kind == "completed":
                self._fail(call, InferenceError("upstream_error", "nothing came of it"))

    def _fail(self, call: _Call, error: InferenceError) -> None:
        """One picture is not drawn: the model is told, unless all is over."""
        self._current.close()
        if error.reason in _FATAL:
            raise error
        _log.info("no image for %s: %s", self.request_id, error.message)
        failed = event_pb2.Event()
        failed.image.item = self._item
        failed.image.error = error.message or error.reason
        self._ready.append(failed)
        call.result = hosted_images.failed_text(failed.image.error)
        self._next_picture()

    def _next_picture(self) -> None:
        self._waiting.popleft()
        self._advance = self._draw

    async def _ask_again(self) -> None:
        if self._numbers:
            # The caller has calls to answer first.
            self._end(self._last)
            return
        said = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
        said.CopyFrom(self._fold.answer("", 0).choices[0].message)
        results = [(call.id, call.result) for call in self._calls.values()]
        self._most -= len(results)
        hosted_images.go_on(self._request, said, results, again=self._most > 0)
        self._new_round()
        self._current = await self._submit(self._request)
