"""A Millrace per module, in front of providers' real formats; shows who did what in the end."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.clients.rows import PROVIDERS, ROWS
from tests.ports import free_port
from tests.system.shared import shared_stack
from tests.system.stack import ROOT, Stack, until

pytest.register_assert_rewrite("tests.clients.python_calls", "tests.clients.python_media")


# Which clients made which call with which provider; tests say so as the property `made`, which
# reports carry from whatever process.
_MADE: defaultdict[tuple[str, str], set[str]] = defaultdict(set)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties:
        if name == "made" and report.when == "call":
            client, row, provider = str(value).split("|")
            _MADE[row, provider].add(client)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _MADE:
        terminalreporter.section("endpoint x provider, by the official SDKs")
        for line in _table():
            terminalreporter.write_line(line)


def _table() -> Iterator[str]:
    wide = max(map(len, ROWS)) + 2
    yield " " * wide + "".join(f"{name:<13}" for name in PROVIDERS)
    for row in ROWS:
        cells = [",".join(sorted(_MADE[row, name])) or "-" for name in PROVIDERS]
        yield (f"{row:<{wide}}" + "".join(f"{cell:<13}" for cell in cells)).rstrip()


@pytest.fixture(scope="module")
def upstream_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the stand-in for every provider answers."""
    port = free_port()
    log = tmp_path_factory.mktemp("upstream") / "upstream.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.clients.upstream", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait(10)
    sys.stdout.write(log.read_text())


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, upstream_url: str, anyio_backend: str
) -> AsyncIterator[Stack]:
    """`anyio_backend` is asked for so that plain tests can have it, too."""
    providers = {
        name: {"base_url": f"{upstream_url}/{name}{path}", "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    async with shared_stack(
        tmp_path_factory,
        providers=providers,
        serves=("sim", *PROVIDERS),
        sections={
            # Who may be asked for the United Arab Emirates, as a snippet does, is our word.
            "routing": {"compliance": {"deepseek": ["AE"]}},
            "tools": {"image_generation": {"model": "openai/gpt-image-1.5"}},
        },
    ) as stack:

        async def listens() -> bool:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{upstream_url}/calls")).status_code == 200

        await until(listens, "the providers answer")
        yield stack


@pytest.fixture
def upstream_calls(upstream_url: str, stack: Stack) -> Callable[[], list[dict[str, Any]]]:
    """The calls that providers got since the test began, or since this was last asked."""

    def take() -> list[dict[str, Any]]:
        return list(httpx.get(f"{upstream_url}/calls").json())

    take()
    return take
