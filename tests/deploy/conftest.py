"""Reads compose.yaml as Docker would: merges, variables and defaults resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

# What a user's .env holds.
SECRETS = {
    "MILLRACE_API_KEY": "mr-key-0123456789abcdef0123456789abcdef",
    "MILLRACE_FLEET_TOKEN": "mr-fleet-0123456789abcdef",
    "MILLRACE_NATS_PASSWORD": "mr-nats-0123456789abcdef",
}

Services = dict[str, dict[str, Any]]
ReadCompose = Callable[..., Services]

_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def interpolate(value: Any, env: Mapping[str, str]) -> Any:
    """`value` with ${NAME}, ${NAME:-default} and ${NAME:?message} resolved, however deep."""

    def resolve(match: re.Match[str]) -> str:
        name, operator, text = match.groups()
        if found := env.get(name):
            return found
        if operator == ":?":
            raise LookupError(f"{name}: {text}")
        return text or ""

    if isinstance(value, str):
        return _VARIABLE.sub(resolve, value)
    if isinstance(value, list):
        return [interpolate(item, env) for item in value]
    if isinstance(value, dict):
        return {key: interpolate(item, env) for key, item in value.items()}
    return value


@pytest.fixture
def read_compose() -> ReadCompose:
    """The services of compose.yaml, given a .env file's variables."""

    def read(**env: str) -> Services:
        document = yaml.safe_load((ROOT / "compose.yaml").read_text())
        services: Services = interpolate(document["services"], env)
        return services

    return read


@pytest.fixture
def secrets() -> dict[str, str]:
    return dict(SECRETS)


@pytest.fixture
def services(read_compose: ReadCompose, secrets: dict[str, str]) -> Services:
    """The services as a user with nothing but the secrets in .env gets them."""
    return read_compose(**secrets)


@pytest.fixture
def root() -> Path:
    return ROOT
