"""One stack for all tests of a module, where none of them breaks it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.system.stack import Stack


@contextlib.asynccontextmanager
async def shared_stack(
    folders: pytest.TempPathFactory, workers: int = 1, edges: int = 1, **options: Any
) -> AsyncIterator[Stack]:
    """A running stack, for the fixture of a module."""
    stack = Stack(folders.mktemp("stack"), **options)
    try:
        await stack.start(workers, edges)
        yield stack
    finally:
        await stack.stop()
        sys.stdout.write(stack.logs())
