"""Batches on a whole stack, made and read without an edge."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from broker.batch import names, states
from broker.bus import Bus
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.v1 import batch_pb2, file_pb2
from tests.system.stack import Stack, until

CHAT = "/v1/chat/completions"
OWNER = "acme"


def line(custom_id: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def chat(number: int, model: str = "sim/echo", **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"say {number}"}
    return line(f"line-{number}", {"model": model, "messages": [message], **fields})


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Runner:
    """An owner with files and batches."""

    def __init__(self, stack: Stack, owner: str = OWNER) -> None:
        self.stack = stack
        self.owner = owner

    @property
    def bus(self) -> Bus:
        return self.stack.bus

    async def upload(self, lines: Iterable[dict[str, Any] | bytes]) -> str:
        data = b"\n".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines
        )
        file = file_pb2.StoredFile(
            owner=self.owner, tenant=self.owner, purpose=file_pb2.FILE_PURPOSE_BATCH, filename="in"
        )
        return (await Files(self.bus).put(file, _pieces(data))).id

    async def create(
        self,
        lines: Iterable[dict[str, Any] | bytes],
        *,
        window_s: int = 3600,
        options: batch_pb2.BatchOptions | None = None,
        **fields: Any,
    ) -> str:
        now = int(time.time())
        record = batch_pb2.StoredBatch(
            id=names.new_id(time.time_ns() // 1_000_000, os.urandom(10)),
            owner=self.owner,
            tenant=self.owner,
            status=states.VALIDATING,
            endpoint=fields.pop("endpoint", CHAT),
            input_file_id=await self.upload(lines),
            window_s=window_s,
            created_at=now,
            expires_at=now + window_s,
            options=options,
            **fields,
        )
        await Batches(self.bus).create(record)
        return record.id

    async def get(self, batch_id: str) -> batch_pb2.StoredBatch:
        found = await Batches(self.bus).get(self.owner, batch_id)
        assert found is not None
        return found

    async def over(self, batch_id: str, timeout_s: float = 60) -> batch_pb2.StoredBatch:
        """The record once nothing becomes of it any more."""

        async def final() -> batch_pb2.StoredBatch | None:
            record = await self.get(batch_id)
            return record if record.status in states.FINAL else None

        try:
            found: batch_pb2.StoredBatch = await until(final, "the batch is over", timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {await self.get(batch_id)}") from exc
        return found

    async def content(self, file_id: str) -> bytes:
        if not file_id:
            return b""
        files = Files(self.bus)
        record = await files.get(self.owner, file_id)
        assert record is not None
        return b"".join([piece async for piece in files.read(record)])

    async def rows(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(row) for row in (await self.content(file_id)).splitlines()]

    async def change(self, batch_id: str, edit: Any) -> None:
        await Batches(self.bus).change(self.owner, batch_id, edit)
