"""A copy of this release as a later one might be: its messages have fields that nobody knows yet.

Every message gets a field, every enum a value, every oneof of the protocol between processes one
more case; and the copy's code sends them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FIELD = 15_000
_VALUE = 190
# Behind each generated module: messages made by their constructors have the new field.
_HOOK = """
from broker import newer as _newer
_newer.wrap(globals())
"""
_NEWER = """
from google.protobuf.message import Message


class Newer:
    def __init__(self, kind):
        self._kind = kind

    def __call__(self, *args, **fields):
        message = self._kind(*args, **fields)
        message.from_the_future = "unheard of"
        return message

    def __getattr__(self, name):
        return getattr(self._kind, name)

    def __instancecheck__(self, value):
        return isinstance(value, self._kind)

    def __or__(self, other):
        return object

    __ror__ = __or__


def wrap(names):
    for name, kind in list(names.items()):
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message:
            names[name] = Newer(kind)
"""
# What the later release says that this one has no word for.
_EDITS = (
    (
        "workers/delivery.py",
        "        self.control(pb.Frame(session=session.number, claim=claim))\n",
        "        self.control(pb.Frame(session=session.number, new_case='?'))\n",
    ),
    (
        "edge/delivery.py",
        "            self.send(pb.Control(session=number, grant=grant))\n",
        "            self.send(pb.Control(session=number, new_case='?'))\n",
    ),
    (
        "workers/attempt.py",
        "        self._session.send(events, last=self._completed)\n",
        "        events.insert(len(events) - 1, event_pb2.Event(new_case='?'))\n",
    ),
)
_FINISH = '"stop": event_pb2.FINISH_REASON_STOP'


def newer_release(folder: Path) -> Path:
    """Write it below `folder`; returns where it can be started with `python -m`."""
    root = folder / "newer"
    for package in ("broker", "edge", "workers", "protos"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("*.pyc"))
    for proto in (root / "protos").rglob("*.proto"):
        proto.write_text(_later(proto.read_text()))
    command = [sys.executable, "protos/generate.py"]
    subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, check=True)
    (root / "broker" / "newer.py").write_text(_NEWER)
    for module in (root / "broker" / "v1").glob("*_pb2.py"):
        module.write_text(module.read_text() + _HOOK)
    for name, old, new in _EDITS:
        path = root / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old)
        path.write_text(text.replace(old, new + old))
    events = root / "workers/dialects/openai_chat/events.py"
    assert _FINISH in events.read_text()
    events.write_text(events.read_text().replace(_FINISH, f'"stop": {_VALUE}'))
    return root


def _later(proto: str) -> str:
    proto = re.sub(
        r"^(\s*)(message \w+) \{(\}?)",
        rf"\1\2 {{ optional string from_the_future = {_FIELD}; \3",
        proto,
        flags=re.MULTILINE,
    )
    # Its first value has to be 0.
    proto = re.sub(
        r"enum (\w+) \{.*?= 0;",
        lambda m: f"{m[0]} {_loud(m[1])}_NEW = {_VALUE};",
        proto,
        flags=re.DOTALL,
    )
    return re.sub(
        r"oneof (kind|payload|action) \{",
        rf"oneof \1 {{ string new_case = {_FIELD + 1};",
        proto,
    )


def _loud(name: str) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", name).upper()
