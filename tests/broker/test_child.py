"""One child process kept alive: real processes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.child import QUICK_DEATHS, Child, ChildError, Program


class Story:
    """What a child said and did."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.passed_on: list[str] = []
        self.pids: list[int | None] = []

    def child(self, code: str, *, shows: Callable[[str], bool] = bool, **env: str) -> Child:
        command = (sys.executable, "-S", "-c", code)
        program = Program("worker", "w", lambda: command, {**os.environ, **env}, shows)
        child = Child(
            program,
            say=self.said.append,
            pass_on=self.passed_on.append,
            changed=lambda: self.pids.append(child.pid),
        )
        return child


@pytest.fixture
def story() -> Story:
    return Story()


@contextlib.asynccontextmanager
async def kept(child: Child) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(child.run())
    try:
        yield task
    finally:
        child.kill()
        await asyncio.gather(task, return_exceptions=True)


async def until(claim: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


LIVE = "import time; print('up', flush=True); time.sleep(60)"


async def test_what_it_writes_is_passed_on_line_by_line(story: Story) -> None:
    code = "import sys, time; print('a'); print('b', file=sys.stderr); print('x' * 200_000); sys.stdout.flush(); time.sleep(60)"
    async with kept(story.child(code)):
        await until(lambda: len(story.passed_on) == 3)
    assert set(story.passed_on) == {"a", "b", "x" * 200_000}


async def test_lines_that_nobody_wants_are_kept_for_the_last_words_only(story: Story) -> None:
    child = story.child("print('noise'); print('[ERR] x'); import time; time.sleep(60)", shows=lambda line: "ERR" in line, PYTHONUNBUFFERED="1")  # fmt: skip
    async with kept(child):
        await until(lambda: len(child.tail) == 2)
    assert story.passed_on == ["[ERR] x"]
    assert list(child.tail) == ["noise", "[ERR] x"]


async def test_a_line_that_is_waited_for_is_handed_over_and_not_passed_on(story: Story) -> None:
    child = story.child("print('{\"listening\": 1}\\nup', flush=True); import time; time.sleep(60)")
    line = child.line_starting('{"listening"')
    async with kept(child):
        assert await asyncio.wait_for(line, 10) == '{"listening": 1}'
        await until(lambda: story.passed_on == ["up"])


async def test_a_killed_child_is_back_within_a_second_and_its_new_pid_told(story: Story) -> None:
    child = story.child(LIVE)
    async with kept(child):
        await until(lambda: story.passed_on == ["up"])
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        await until(lambda: story.passed_on == ["up", "up"])
        assert time.monotonic() - killed < 1
        assert story.pids == [first, None, child.pid]
        assert story.said == ["worker w was ended by SIGKILL; starting it again"]


async def test_a_child_that_is_killed_again_and_again_is_not_given_up(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.child.LAST_DELAY_S", 0.01)
    monkeypatch.setattr("broker.child.FIRST_DELAY_S", 0.01)
    child = story.child(LIVE)
    async with kept(child) as task:
        for starts in range(1, QUICK_DEATHS + 2):
            await until(lambda: len(story.passed_on) == starts)  # noqa: B023
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        await until(lambda: len(story.passed_on) == QUICK_DEATHS + 2)
        assert not task.done()


async def test_a_child_that_dies_at_once_is_given_up_with_its_last_words(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.child.FIRST_DELAY_S", 0.01)
    child = story.child("print('no such thing'); raise SystemExit(3)")
    with pytest.raises(ChildError) as caught:
        await asyncio.wait_for(child.run(), 20)
    assert str(caught.value) == (
        "worker w exited with code 3 right after its start, 5 times in a row; its last lines:\n"
        "  no such thing"
    )
    assert story.passed_on == ["no such thing"] * QUICK_DEATHS


async def test_the_wait_before_a_restart_doubles(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.child.FIRST_DELAY_S", 0.1)
    monkeypatch.setattr("broker.child.LAST_DELAY_S", 0.2)
    started = time.monotonic()
    with pytest.raises(ChildError):
        await story.child("raise SystemExit(1)").run()
    # 0.1 + 0.2 + 0.2 + 0.2 between five starts.
    assert time.monotonic() - started > 0.7


async def test_a_program_that_does_not_exist_is_an_error(story: Story) -> None:
    child = Child(
        Program("nats", "nats", lambda: ("/nonexistent/nats",), {}),
        say=story.said.append,
        pass_on=story.passed_on.append,
        changed=lambda: None,
    )
    with pytest.raises(ChildError, match="nats cannot be started"):
        await child.run()


async def test_stopping_lets_the_child_finish(story: Story) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit(0))); print('up', flush=True); time.sleep(60)"
    child = story.child(code)
    async with kept(child) as task:
        await until(lambda: story.passed_on == ["up"])
        await asyncio.wait_for(child.stop(10), 10)
        await asyncio.wait_for(task, 1)
    assert story.passed_on == ["up", "bye"]
    assert story.said == []
    assert child.pid is None


async def test_a_child_that_ignores_the_request_to_stop_is_killed_after_its_grace(
    story: Story,
) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = story.child(code)
    async with kept(child) as task:
        await until(lambda: story.passed_on == ["up"])
        pid = child.pid
        assert pid is not None
        await asyncio.wait_for(child.stop(0.2), 5)
        await asyncio.wait_for(task, 1)
        assert not alive(pid)
    assert story.said == ["worker w did not end within 0 s; killing it"]


async def test_stopping_between_two_starts_does_not_start_it_again(story: Story) -> None:
    child = story.child("raise SystemExit(1)")
    async with kept(child) as task:
        await until(lambda: bool(story.said))
        await asyncio.wait_for(child.stop(10), 5)
        await asyncio.wait_for(task, 1)
        starts = [pid for pid in story.pids if pid is not None]
        assert len(starts) == 1


async def test_killing_takes_what_the_child_started_with_it(story: Story) -> None:
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); p.wait()"
    child = story.child(code)
    async with kept(child):
        await until(lambda: bool(story.passed_on))
    grandchild = int(story.passed_on[0])
    await until(lambda: not alive(grandchild))


async def test_ctrl_c_in_the_terminal_does_not_reach_the_child(story: Story) -> None:
    child = story.child(LIVE)
    async with kept(child):
        await until(lambda: child.pid is not None)
        assert child.pid is not None
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
async def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    code = """
import asyncio, os, sys
from broker.child import Child, Program
program = Program("w", "w", lambda: (sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"), dict(os.environ))
child = Child(program, say=print, pass_on=lambda line: print(child.pid, flush=True), changed=lambda: None)
asyncio.run(child.run())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        await until(lambda: not alive(pid), seconds=2)
