"""LiteLLM's proxy as a peer: installed on demand into an environment of its own, and configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from bench.phases import PHASES
from bench.processes import BenchError

# Pinned, so that figures of different days can be compared.
VERSION = "1.106.2"
_INSTALL_SECONDS = 900


def installed() -> Path:
    """The proxy's command; installs it into the cache folder when it is not there yet.

    Raises:
        BenchError: pip could not install it.
    """
    folder = _cache() / f"litellm-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    command = folder / "bin" / "litellm"
    ready = folder / ".ready"
    if ready.exists():
        return command
    print(f"installing LiteLLM {VERSION} into {folder}", file=sys.stderr, flush=True)
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", f"litellm[proxy]=={VERSION}"])
    except (OSError, subprocess.SubprocessError) as exc:
        said = getattr(exc, "stderr", None) or str(exc)
        raise BenchError(f"LiteLLM could not be installed: {said.strip()[-500:]}") from exc
    ready.touch()
    return command


def config(upstream: str, key: str) -> str:
    """The proxy's configuration: one model per phase, all at the simulator."""
    models = [
        {
            "model_name": phase.name,
            "litellm_params": {
                "model": f"openai/{phase.model}",
                "api_base": upstream,
                "api_key": "none",
            },
        }
        for phase in PHASES
    ]
    return yaml.safe_dump(
        {
            "model_list": models,
            "litellm_settings": {"telemetry": False},
            "general_settings": {"master_key": key},
        }
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "millrace-bench"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
