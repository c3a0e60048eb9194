"""A provider of the OpenAI format is one word, one short file and recordings, as CONTRIBUTING says."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import workers.providers
from broker import providers
from broker.config import load_settings
from broker.v1 import generation_pb2
from tests.workers.conformance.outcome import decode
from tests.workers.conformance.recordings import FOLDER, load
from workers import registry
from workers.dialects.openai_chat import DIALECT
from workers.provider import Provider

ROOT = Path(__file__).parents[2]
LONGEST = 40
# What a provider offers beside chat, such as pictures, comes on top, and where it is.
BESIDE_CHAT = ("operations", "alternative", "residency", "batches")
# OpenAI and Azure are whole families of models; the others that speak the format are small.
SMALL = [
    name
    for name in providers.REGISTRY
    if registry.provider(name).dialect is DIALECT and name not in ("openai", "azure")
]


def _chat_alone(text: str) -> list[str]:
    """The lines of a provider's file without what only its other operations and formats need."""
    body = ast.parse(text).body
    declared = body[-1]
    assert isinstance(declared, ast.Assign)
    assert isinstance(declared.value, ast.Call)
    beside = [field for field in declared.value.keywords if field.arg in BESIDE_CHAT]
    needed = set().union(
        *(_names(field) for field in declared.value.keywords if field not in beside)
    )
    while more := set().union(*(_names(s) for s in body[:-1] if _makes(s) & needed)) - needed:
        needed |= more
    unneeded = [s for s in body[2:-1] if not _makes(s) & {*needed, "Provider"}]
    gone: list[ast.keyword | ast.stmt] = [*beside, *unneeded]
    left_out = {
        number
        for node in gone
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return [line for number, line in lines if number not in left_out and line]


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _makes(statement: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return set().union(*map(_names, statement.targets))
    return {statement.name} if isinstance(statement, ast.FunctionDef) else set()


@pytest.mark.parametrize("name", SMALL)
def test_a_provider_of_the_openai_format_is_a_file_of_less_than_40_lines(name: str) -> None:
    text = (ROOT / "workers" / "providers" / f"{name}.py").read_text("utf-8")
    assert len(_chat_alone(text)) < LONGEST


def test_most_providers_speak_the_openai_format() -> None:
    assert len(SMALL) >= 13


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The provider that CONTRIBUTING.md adds: its file in a folder of its own, and its word."""
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    found = re.search(r'   ```python\n(   """Acme.*?)   ```', guide, re.DOTALL)
    assert found
    text = re.sub(r"(?m)^   ", "", found[1])
    assert len(text.splitlines()) < LONGEST
    (tmp_path / "acme.py").write_text(text, "utf-8")
    monkeypatch.setattr(workers.providers, "__path__", [*workers.providers.__path__, str(tmp_path)])
    monkeypatch.setitem(providers.REGISTRY, "acme", providers.Entry())
    monkeypatch.setitem(providers._SPELLINGS, "acme", "acme")
    yield registry.provider("acme")
    sys.modules.pop("workers.providers.acme", None)


def test_its_word_makes_its_variables(acme: Provider) -> None:
    env = {"ACME_API_KEY": "sk-acme", "ACME_BASE_URL": "http://127.0.0.1:9/v1"}
    on = load_settings(env).providers[acme.name]
    loaded = registry.load(on)
    assert (loaded.base_url, loaded.models) == (env["ACME_BASE_URL"], acme.models)
    assert "acme" not in load_settings({}).providers


def test_it_is_asked_in_the_openai_format(acme: Provider) -> None:
    request = generation_pb2.Request()
    request.generate.messages.add(role="ROLE_USER").parts.add().text.text = "hi"
    request.generate.temperature = 1.5
    request.generate.seed = 7
    request.generate.logit_bias["5"] = 1
    request.generate.stream = True
    call = acme.dialect_for("acme-large").call(request, "acme-large", acme)
    body = json.loads(call.body)
    assert call.path == "/chat/completions"
    assert (body["model"], body["temperature"], body["stream"]) == ("acme-large", 1, True)
    assert body["random_seed"] == 7
    assert call.dropped == ("logit_bias",)
    assert body["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", ["three-tool-calls", "stream-reasoning-field", "bare"])
def test_its_recordings_are_understood(acme: Provider, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "recordings" / "acme"
    folder.mkdir(parents=True)
    copy = folder / f"{name}.json"
    copy.write_bytes((FOLDER / "openai_compatible" / f"{name}.json").read_bytes())
    recording = load(copy)
    assert recording.provider == "acme"
    dialect = acme.dialect_for(recording.model)
    for size in (1, 4096):
        outcome = decode(dialect, recording, recording.answer, size)
        assert len(outcome.choices) == len(recording.expected["choices"])
        for index, wanted in enumerate(recording.expected["choices"]):
            choice = outcome.choices[index]
            assert (choice.text, choice.finish_reason) == (
                wanted.get("text", choice.text),
                wanted["finish_reason"],
            )


def test_what_differs_is_declared(acme: Provider) -> None:
    request = generation_pb2.Request()
    request.generate.messages.add(role="ROLE_SYSTEM").parts.add().text.text = "a"
    request.generate.messages.add(role="ROLE_SYSTEM").parts.add().text.text = "b"
    one = replace(acme, quirks={"system_messages": "one"})
    bodies = [json.loads(p.dialect.call(request, "m", p).body) for p in (acme, one)]
    assert [len(body["messages"]) for body in bodies] == [2, 1]
