"""Calls to the batch and file APIs, repeated while the edge is away: a batch goes on without it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import httpx

from broker.batch.projection import number_of
from broker.batch.splitter import Splitter
from broker.cli.api import check
from broker.cli.files import in_parts
from broker.files import MOST_BYTES

# An edge that restarts, or a load balancer without one, is back before that as a rule.
PATIENCE_S = 600.0
_PAUSE_S = 1.0
_AWAY = {502, 503, 504}


class Calls:
    """See the module. `on_away` is told what is waited for, and "" when it is over."""

    def __init__(self, http: httpx.Client, on_away: Callable[[str], None]) -> None:
        self._http = http
        self._on_away = on_away

    def upload(self, content: BinaryIO, name: str) -> str:
        """The id of the new file; a large one goes in parts."""
        size = content.seek(0, os.SEEK_END)
        if size > MOST_BYTES:
            wanted = {"purpose": "batch", "filename": name, "bytes": size}
            wanted["mime_type"] = "application/jsonl"
            return str(in_parts(self._http, content, wanted, ask=self._patiently)["id"])

        def send() -> httpx.Response:
            content.seek(0)
            files = {"file": (name, content, "application/jsonl")}
            return self._http.post("/v1/files", data={"purpose": "batch"}, files=files)

        return str(self._patiently(send)["id"])

    def create(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """The batch of this idempotency key, made now or before."""
        headers = {"idempotency-key": key}
        return self._patiently(lambda: self._http.post("/v1/batches", json=body, headers=headers))

    def progress(self, batch_id: str) -> dict[str, Any]:
        """The batch, how fast it goes, and what holds it up."""
        return self._patiently(lambda: self._http.get(f"/v1/batches/{batch_id}/progress"))

    def act(self, batch_id: str, action: str) -> dict[str, Any]:
        """Cancel, pause, resume or retry it."""
        return self._patiently(lambda: self._http.post(f"/v1/batches/{batch_id}/{action}"))

    def estimate(self, body: dict[str, Any]) -> dict[str, Any]:
        """What it would take and cost."""
        return self._patiently(lambda: self._http.post("/v1/batches/estimate", json=body))

    def list(self, limit: int) -> list[dict[str, Any]]:
        """The newest batches."""
        found = self._patiently(lambda: self._http.get("/v1/batches", params={"limit": limit}))
        return list(found["data"])

    def delete_file(self, file_id: str) -> None:
        """Forget a file."""
        self._patiently(lambda: self._http.delete(f"/v1/files/{file_id}"))

    def results(self, batch_id: str) -> Iterator[bytes]:
        """Rows, with their ends, of the lines that ended, in their order.

        One that breaks off goes on behind the last row that came whole.
        """
        waiting, after = _Waiting(self._on_away), 0
        while True:
            try:
                for row in self._rows(batch_id, after, waiting):
                    yield row
                    after = number_of(row)
            except httpx.TransportError as exc:
                waiting.for_it(exc)
            else:
                return

    def _rows(self, batch_id: str, after: int, waiting: _Waiting) -> Iterator[bytes]:
        params, splitter = {"after": after}, Splitter()
        with self._http.stream("GET", f"/v1/batches/{batch_id}/results", params=params) as answer:
            waiting.check(answer)
            for chunk in answer.iter_bytes():
                yield from splitter.feed(chunk)

    def _patiently(self, send: Callable[[], httpx.Response]) -> dict[str, Any]:
        waiting = _Waiting(self._on_away)
        while True:
            try:
                response = send()
                waiting.check(response)
                return dict(response.json())
            except httpx.TransportError as exc:
                waiting.for_it(exc)


class _AwayError(httpx.TransportError):
    """Whoever answered is not the edge, or one that leaves."""


class _Waiting:
    """Waits for an edge that is away, until patience ends; it begins anew when one has answered."""

    def __init__(self, on_away: Callable[[str], None]) -> None:
        self._on_away = on_away
        self._until: float | None = None

    def for_it(self, why: httpx.TransportError) -> None:
        """Wait a little. Raises `why` when that was done for long enough."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + PATIENCE_S
        if now > self._until:
            raise why
        self._on_away(str(why) or type(why).__name__)
        time.sleep(_PAUSE_S)

    def check(self, response: httpx.Response) -> None:
        """Take an answer; end the command with one that is an error."""
        late = self._until is not None and time.monotonic() > self._until
        if response.status_code in _AWAY and not late:
            raise _AwayError(f"status {response.status_code}")
        if not response.is_success:
            response.read()
        check(response)
        if self._until is not None:
            self._until = None
            self._on_away("")
