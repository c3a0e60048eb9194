from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import Stack


@pytest.fixture
async def make_stack(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Stack]]]:
    stacks: list[Stack] = []

    async def make(workers: int = 2, edges: int = 1, **options: Any) -> Stack:
        folder = tmp_path / f"stack{len(stacks)}"
        folder.mkdir()
        stack = Stack(folder, **options)
        stacks.append(stack)
        await stack.start(workers, edges)
        return stack

    yield make
    for stack in stacks:
        await stack.stop()
        sys.stdout.write(stack.logs())  # shown by pytest when the test failed


@pytest.fixture
async def stack(make_stack: Callable[..., Awaitable[Stack]]) -> Stack:
    return await make_stack()
