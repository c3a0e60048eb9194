from __future__ import annotations

import subprocess
import sys
import time

from bench.meter import cpu_by_role, cpu_nanoseconds, family, memory_by_role, resident_bytes

THREADS = """
import sys, threading, time
def spin():
    end = time.thread_time() + 0.2
    while time.thread_time() < end: pass
threads = [threading.Thread(target=spin) for _ in range(2)]
for thread in threads: thread.start()
spin()
for thread in threads[:1]: thread.join()
block = bytearray(50_000_000)
print('ready', flush=True); sys.stdin.read()
"""


def test_cpu_of_all_threads_and_memory_are_seen_and_a_dead_process_costs_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # The main thread spun for 0.2 s at least; threads that ended take their time with them.
        first = cpu_nanoseconds(process.pid)
        assert first >= 200_000_000
        assert resident_bytes(process.pid) > 50_000_000
        roles = {"busy": [process.pid, process.pid], "none": []}
        assert cpu_by_role(roles)["busy"] >= 2 * first
        assert cpu_by_role(roles)["none"] == memory_by_role(roles)["none"] == 0
        assert memory_by_role(roles)["busy"] >= 50_000_000
    assert cpu_nanoseconds(process.pid) == resident_bytes(process.pid) == 0


def test_family_holds_grandchildren() -> None:
    inner = "import sys; print('up', flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(family(process.pid)) == 2
        assert process.stdin is not None
        process.stdin.close()
        deadline = time.monotonic() + 5
        while process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
