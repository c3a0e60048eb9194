"""Calls to the batch and file APIs, repeated while the edge is away: a batch goes on without it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import httpx

from broker.batch.splitter import Splitter
from broker.cli.api import check
from broker.cli.files import in_parts
from broker.files import MOST_BYTES

# An edge that restarts, or a load balancer without one, is back before that as a rule.
PATIENCE_S = 600.0
_PAUSE_S = 1.0
_AWAY = {502, 503, 504}
_CHUNK = 1 << 20


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

    def get(self, batch_id: str) -> dict[str, Any]:
        """The batch."""
        return self._patiently(lambda: self._http.get(f"/v1/batches/{batch_id}"))

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

    def results(self, batch_id: str, after: int = 0) -> Iterator[bytes]:
        """Rows, with their ends, of the lines that ended; in their order, from behind one on."""
        params = {"after": after}
        with self._http.stream("GET", f"/v1/batches/{batch_id}/results", params=params) as answer:
            if not answer.is_success:
                answer.read()
            check(answer)
            splitter = Splitter()
            for chunk in answer.iter_bytes(_CHUNK):
                yield from splitter.feed(chunk)
            if row := splitter.last():
                yield row + b"\n"

    def _patiently(self, send: Callable[[], httpx.Response]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        away = False
        while True:
            try:
                response = send()
            except httpx.TransportError as exc:
                if time.monotonic() > deadline:
                    raise
                why = str(exc) or type(exc).__name__
            else:
                if response.status_code not in _AWAY or time.monotonic() > deadline:
                    check(response)
                    if away:
                        self._on_away("")
                    return dict(response.json())
                why = f"status {response.status_code}"
            away = True
            self._on_away(why)
            time.sleep(_PAUSE_S)
