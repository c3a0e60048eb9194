from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.workers.sim.raw import Sim, start


@pytest.fixture(scope="module")
def process() -> Iterator[Sim]:
    sim = start()
    yield sim
    sim.process.send_signal(signal.SIGTERM)
    assert sim.process.wait(timeout=2) == 0
    assert sim.process.stdout is not None
    sim.process.stdout.close()


@pytest.fixture
def sim(process: Sim) -> Sim:
    process.until(lambda stats: stats["open"] == 0)
    process.request("POST", "/stats/reset")
    return process
