"""Takes what is still being sent, before a call is ended early.

A status that meets a message on its way makes Python's library tell its caller of an internal
error in place of the status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A call that is refused ends when its caller has sent nothing for so long, or after the most of it.
QUIET_S = 0.1
LINGER_S = 2.0


async def linger(reader: asyncio.Task[None], read_so_far: Callable[[], int]) -> None:
    """Wait while `reader` still reads something; `read_so_far` counts its messages."""
    deadline = asyncio.get_running_loop().time() + LINGER_S
    seen = -1
    while read_so_far() != seen and asyncio.get_running_loop().time() < deadline:
        seen = read_so_far()
        await asyncio.wait({reader}, timeout=QUIET_S)
