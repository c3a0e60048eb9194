"""docs/endpoints.md says what the providers' declarations say, of every endpoint there is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from broker import operations
from broker.providers import REGISTRY
from broker.translate.forms import ROUTES

SCRIPT = Path(__file__).parents[3] / "docs" / "endpoints.py"
# What one form or the other wants.
BODY = {
    "model": "m",
    "input": "x",
    "prompt": "x",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 1,
    "query": "x",
    "documents": ["x"],
    "voice": "alloy",
    "images": [{"image_url": "https://images.example/a.png"}],
}
# Source: the providers' own documentation; at a fresh address of Hugging Face there is reranking.
OFFERED = {
    "Embeddings": "openai azure cohere vertex_ai gemini bedrock together_ai mistral openrouter "
    "fireworks perplexity ollama vllm huggingface openai_compatible sim",
    "Rerank": "cohere vertex_ai bedrock together_ai openrouter fireworks vllm openai_compatible sim",
    "Moderations": "openai mistral openai_compatible sim",
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("endpoints_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_declarations_say() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_page_that_is_out_of_date_is_told(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "endpoints.md")
    monkeypatch.setattr(sys, "argv", ["endpoints.py", "--check"])
    assert script.main() == 1
    assert "out of date" in capsys.readouterr().out


def test_every_endpoint_is_on_the_page(script: ModuleType) -> None:
    paths = [path for endpoint in script.ENDPOINTS for path in endpoint.paths]
    assert set(ROUTES) <= set(paths)
    assert len(paths) == len(set(paths))
    page = script.PAGE.read_text("utf-8")
    assert [path for path in (*ROUTES, *script.BESIDE) if f"`POST {path}`" not in page] == []
    assert [kind for kind in REGISTRY if f"\n| `{kind}` |" not in page] == []


@pytest.mark.parametrize("path", [path for path, form in ROUTES.items() if not form.parse_form])
def test_an_endpoints_column_asks_for_what_the_endpoint_does(script: ModuleType, path: str) -> None:
    [endpoint] = [one for one in script.ENDPOINTS if path in one.paths]
    asked = ROUTES[path].parse(json.dumps(BODY).encode())
    assert operations.name(asked) == endpoint.operation


@pytest.mark.parametrize("title", OFFERED)
def test_providers_are_marked_that_have_it(script: ModuleType, title: str) -> None:
    [endpoint] = [one for one in script.ENDPOINTS if one.title == title]
    marks = {kind: script.cell(kind, endpoint) for kind in REGISTRY}
    assert {kind for kind, mark in marks.items() if mark == script.OWN} == {*OFFERED[title].split()}
    elsewhere = {"huggingface"} if title == "Rerank" else set()
    assert {kind for kind, mark in marks.items() if mark == script.ELSEWHERE} == elsewhere
    assert script.MADE not in marks.values()
