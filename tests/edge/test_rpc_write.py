"""A message to a gRPC client that does not read it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.errors import InferenceError
from edge.rpc.calls import write


class _Context:
    """Takes messages while there is room."""

    def __init__(self, room: int) -> None:
        self.taken: list[Any] = []
        self._room = room

    async def write(self, message: Any) -> None:
        if len(self.taken) == self._room:
            await asyncio.Event().wait()
        self.taken.append(message)


async def test_a_client_that_does_not_read_is_given_up() -> None:
    context: Any = _Context(room=2)
    await write(context, "one", 5)
    await write(context, "two", 5)
    with pytest.raises(InferenceError, match=r"did not read for 0\.05 s") as caught:
        await write(context, "three", 0.05)
    assert caught.value.reason == "client_gone"
    assert context.taken == ["one", "two"]
