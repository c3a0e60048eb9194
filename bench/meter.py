"""Reads what processes cost from /proc: nanoseconds on a CPU, and resident memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Roles = Mapping[str, Sequence[int]]


def cpu_nanoseconds(pid: int) -> int:
    """Time all threads of a process have been on a CPU; 0 for one that is gone."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except OSError:  # the thread ended between the listing and the reading
            continue
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_by_role(roles: Roles) -> dict[str, int]:
    """Nanoseconds per role, summed over its processes."""
    return {role: sum(map(cpu_nanoseconds, pids)) for role, pids in roles.items()}


def memory_by_role(roles: Roles) -> dict[str, int]:
    """Resident bytes of the largest process of each role."""
    return {role: max(map(resident_bytes, pids), default=0) for role, pids in roles.items()}


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        # The name in parentheses may hold spaces; the parent is the second field after it.
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found
