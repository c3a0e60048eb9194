"""The official OpenAI SDKs, Python's and Node's, make every call with several providers each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest
from openai import AsyncOpenAI

from tests.clients.node_packages import run_node
from tests.clients.python_calls import CALLS
from tests.clients.rows import PROVIDERS, ROWS, cells, model
from tests.system.stack import KEY, ROOT, Stack

README = ROOT / "README.md"
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


def test_every_call_is_made_with_two_providers_at_least() -> None:
    assert set(CALLS) == set(ROWS)
    assert all(len(models) >= 2 for models in ROWS.values())


def test_the_readme_says_what_is_called_where() -> None:
    [text] = re.findall(r"\n(\| call \| openai .*?)\n\n", README.read_text(), re.DOTALL)
    head, _, *lines = text.strip().splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")[1:]]
    assert names == list(PROVIDERS)
    shown: dict[str, set[str]] = {}
    for line in lines:
        row, *marks = (cell.strip() for cell in line.strip("|").split("|"))
        shown[row] = {name for name, mark in zip(names, marks, strict=True) if mark}
    assert shown == {row: set(models) for row, models in ROWS.items()}


@pytest.mark.parametrize(("row", "provider"), cells())
async def test_python(sdk: AsyncOpenAI, record_property: Record, row: str, provider: str) -> None:
    await CALLS[row](sdk, model(row, provider))
    record_property("made", f"python|{row}|{provider}")


@pytest.fixture(scope="module")
def node(stack: Stack) -> dict[tuple[str, str], str]:
    """What went wrong in each cell, all of them made by one process."""
    given = [(row, provider, model(row, provider)) for row, provider in cells()]
    told = run_node("matrix.mjs", stack, given)
    return {(line["row"], line["provider"]): line["wrong"] for line in told}


@pytest.mark.parametrize(("row", "provider"), cells())
def test_node(
    node: dict[tuple[str, str], str], record_property: Record, row: str, provider: str
) -> None:
    assert node[row, provider] == ""
    record_property("made", f"node|{row}|{provider}")


async def test_a_snapshot_is_found_by_its_plain_name(sdk: AsyncOpenAI) -> None:
    found = await sdk.models.retrieve("claude-haiku-4-5-20251001")
    assert (found.id, found.owned_by) == ("claude-haiku-4-5-20251001", "anthropic")
