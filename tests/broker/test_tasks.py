"""Tasks that fail: somebody is told, and what has to go on does."""

from __future__ import annotations

import asyncio

import pytest

from broker import tasks
from broker.tasks import Tasks, keep


class Failing:
    """Fails so many times, then goes on for ever."""

    def __init__(self, times: int) -> None:
        self.lives = 0
        self.goes_on = asyncio.Event()
        self._times = times

    async def run(self) -> None:
        self.lives += 1
        if self.lives <= self._times:
            raise ValueError(f"bug {self.lives}")
        self.goes_on.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("owned", [False, True])
async def test_what_is_kept_begins_anew_whenever_it_fails_and_says_so(
    owned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)
    failing, owner = Failing(2), Tasks()
    kept = None
    if owned:
        owner.keep(failing.run, "the loop")
    else:
        kept = keep(failing.run, "the loop")
    await asyncio.wait_for(failing.goes_on.wait(), 5)
    assert failing.lives == 3
    assert caplog.text.count("task the loop failed") == 2
    assert "bug 2" in caplog.text
    await owner.close()
    if kept is not None:
        kept.cancel()
        with pytest.raises(asyncio.CancelledError):
            await kept


async def test_what_is_not_kept_fails_once_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    owner = Tasks()
    owner.spawn(Failing(1).run(), "one thing")
    await asyncio.sleep(0.01)
    assert "task one thing failed" in caplog.text
    await owner.close()


async def test_those_who_settle_are_waited_for_and_others_only_so_long() -> None:
    owner, ends = Tasks(), asyncio.Event()

    async def one() -> None:
        await ends.wait()

    owner.spawn(one(), "one")
    await owner.settle(0.01)
    assert len(owner) == 1
    asyncio.get_running_loop().call_later(0.01, ends.set)
    await asyncio.wait_for(owner.settle(), 5)
    assert not owner
