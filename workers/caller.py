"""What an attempt makes its calls with: connections to a provider, or what has its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from workers.connection import Sink
from workers.failures import Limits
from workers.upload import Attachments
from workers.wire import Call


class Said(Protocol):
    """An answer to a call, as `workers.upstream.Reply` describes it."""

    status: int
    headers: Mapping[str, str]

    @property
    def ended(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read(self, limit: int, *, cut: bool) -> bytes:
        """The body."""

    async def push(self, sink: Sink) -> bool:
        """Give the body to `sink` as it comes."""

    def settle(self) -> None:
        """The first token has come."""

    async def aclose(self) -> None:
        """Let go."""


class Opens(Protocol):
    """Makes calls, as `workers.upstream.Upstream` does."""

    async def open(
        self,
        call: Call,
        *,
        key: str | None,
        limits: Limits,
        extra_headers: Mapping[str, str],
        attachments: Attachments,
    ) -> Said:
        """Send a call; its answer."""
