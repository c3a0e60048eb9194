"""Shares tests out among processes: by file, those that measure one after the other.

It also says which event loop tests run in, where their folder does not say otherwise, and prints
what tests measured.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

# Two of these at a time would measure each other: they compare times, or load the machine fully.
_ONE_AT_A_TIME = "measures"
_MEASURE = {
    "test_batch_kills.py",
    "test_batch_lane_limits.py",
    "test_batch_lane_room.py",
    "test_capacity.py",
    "test_catalogue.py",
    "test_churn.py",
    "test_client_faults.py",
    "test_edge_faults.py",
    "test_fairness.py",
    "test_full.py",
    "test_hedging.py",
    "test_partitions.py",
    "test_provider_faults.py",
    "test_worker_faults.py",
}
# What takes longest comes first, so that no process is left with it at the end.
_FIRST = ("measures", "tests/system", "tests/faults", "tests/cli")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Tests of a file stay together, for its fixtures; those that measure, all of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        _sorted = False

        def _assign_work_unit(self, node: WorkerController) -> None:
            if not self._sorted:
                self._sorted = True
                for scope in sorted(self.workqueue, key=_turn):
                    self.workqueue.move_to_end(scope)
            super()._assign_work_unit(node)

        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return _ONE_AT_A_TIME if PurePath(path).name in _MEASURE else path

    return Scheduling(config, log)


def _turn(scope: str) -> int:
    return next((n for n, first in enumerate(_FIRST) if scope.startswith(first)), len(_FIRST))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The properties that tests recorded, of those that passed too."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"MEASURED {name}: {value} by {report.nodeid}")
