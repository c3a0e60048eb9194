"""Shares tests out among processes: those that kill and freeze processes follow one another.

It also says which event loop tests run in, where their folder does not say otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

# Two of these at a time would measure each other.
_ONE_AT_A_TIME = "tests/system"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Tests of a file stay together, for its fixtures; those of the system, all of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _assign_work_unit(self, node: WorkerController) -> None:
            if _ONE_AT_A_TIME in self.workqueue:  # it takes longest
                self.workqueue.move_to_end(_ONE_AT_A_TIME, last=False)
            super()._assign_work_unit(node)

        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return _ONE_AT_A_TIME if Path(path).is_relative_to(_ONE_AT_A_TIME) else path

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
