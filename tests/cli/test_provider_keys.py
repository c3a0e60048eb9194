"""`millrace key provider-key` beside a running `millrace up`: nothing has to be set for it."""

from __future__ import annotations

import stat

import httpx

from broker import keys
from tests.cli.harness import Start, millrace, until

SECRET = "sk-own-0123456789"


def test_a_key_is_stored_with_a_master_key_made_for_it_and_used(start: Start) -> None:
    up = start()
    key = millrace("key", "create", "billing", env=up.env).stdout.strip()
    key_id = keys.identifier(keys.digest(key))
    done = millrace("key", "provider-key", "set", key_id, "sim", env=up.env, input=SECRET + "\n")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    master = up.data / "master_key"
    assert stat.S_IMODE(master.stat().st_mode) == 0o600

    def ask() -> httpx.Response:
        return httpx.post(
            f"http://{up.http}/v1/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json={
                "model": "sim/hello",
                "messages": [{"role": "user", "content": "Hi"}],
                "use_custom_keys": True,
            },
        )

    until(lambda: ask().status_code == 200, why="the edge has the stored key")
    assert millrace("key", "provider-key", "list", key_id, env=up.env).stdout.split() == ["sim"]
    millrace("key", "provider-key", "remove", key_id, "sim", env=up.env)
    until(lambda: ask().status_code == 401, why="the edge has forgotten it")
