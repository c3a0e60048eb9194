"""Frameworks that speak OpenAI's API stream chat with tools, with several providers each."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.node_packages import run_node
from tests.clients.rows import CHAT
from tests.system.stack import KEY, ROOT, Stack

PROVIDERS = ("openai", "anthropic", "gemini", "mistral")
MODELS = {name: f"{name}/{CHAT[name]}" for name in PROVIDERS}
Told = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def ai_sdk(stack: Stack) -> Told:
    told = run_node("ai_sdk.mjs", stack, list(MODELS.values()))
    return {(line["model"], line["way"]): line for line in told}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("way", ["openai-compatible", "openai, chat", "openai, responses"])
def test_vercels_ai_sdk(ai_sdk: Told, provider: str, way: str) -> None:
    told = ai_sdk[MODELS[provider], way]
    assert "wrong" not in told, told["wrong"]
    check(told, provider)
    assert told["tokens"] > 0


VENV = ROOT / ".venv"


def run_python(script: str, stack: Stack) -> Told:
    if not any(VENV.glob(".clients-*")):  # the stamp of what was installed
        pytest.skip("LangChain and LlamaIndex are missing; make clients installs them")
    env = {**os.environ, "OPENAI_BASE_URL": f"{stack.url()}/v1", "OPENAI_API_KEY": KEY}
    done = subprocess.run(
        [VENV / "clients" / "bin" / "python", Path(__file__).parent / "frameworks" / script],
        env=env,
        input=json.dumps(list(MODELS.values())),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(line["model"], line["way"]): line for line in lines}


@pytest.fixture(scope="module")
def langchain(stack: Stack) -> Told:
    return run_python("langchain_chat.py", stack)


@pytest.fixture(scope="module")
def llama_index(stack: Stack) -> Told:
    return run_python("llama_index_chat.py", stack)


def check(told: dict[str, Any], provider: str) -> None:
    assert told["asked"] == [{"location": "Boston", "days": 18}]
    assert told["said"].startswith(f"{provider} heard:")
    assert told["pieces"] > 1
    assert told["object"] == {"city": "Boston", "degrees": 18}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("way", ["chat", "responses"])
def test_langchain(langchain: Told, provider: str, way: str) -> None:
    told = langchain[MODELS[provider], way]
    check(told, provider)
    assert told["tokens"] > 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_llama_index(llama_index: Told, provider: str) -> None:
    check(llama_index[MODELS[provider], "chat"], provider)
