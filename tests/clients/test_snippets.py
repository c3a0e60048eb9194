"""Snippets from the documentation of other services run as they are: only address and key change."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import KEY, Stack

FOLDER = Path(__file__).parent / "snippets"
GO = FOLDER / "go"
ADDRESS = "https://broker.example"
# The smallest JPEG there is; the snippets have it in "Path/to/agi/image.jpeg".
JPEG = base64.b64decode(
    "/9j/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwSExIQEw8Q"
    "EBD/yQALCAABAAEBAREA/8wABgAQEAX/2gAIAQEAAD8A0s8g/9k="
)
UpstreamCalls = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True)
class Expected:
    """What is printed (an expression), the calls that reached providers, files that are left."""

    printed: str
    calls: tuple[str, ...] = ("openai /v1/chat/completions",)
    files: tuple[str, ...] = ()


RESPONSES = ("openai /v1/responses",)
ANTHROPIC = ("anthropic /v1/messages",)
UNICORN = "openai heard: Tell me a three sentence bedtime story about a unicorn."
CALLED = r"Function called: get_current_weather\nArguments JSON: \{.*\}\nParsed args: .*Boston.*"
EXPECTED = {
    "chat_quick_start.py": Expected(r"openai heard: Hello, how are you\?\n"),
    "chat_temperature.py": Expected(""),
    "chat_max_tokens.py": Expected(""),
    "chat_stream.py": Expected("openai heard: Hello"),
    "chat_json.py": Expected(""),
    "chat_tools.py": Expected(""),
    "chat_extra_headers.py": Expected(""),
    "chat_provider_preferences.py": Expected("", ("deepseek /v1/chat/completions",)),
    "chat_provider_preferences.sh": Expected(
        '.*"content":"deepseek heard: Hello!".*', ("deepseek /v1/chat/completions",)
    ),
    "chat.sh": Expected(
        r'\{"id":"chatcmpl-.*"object":"chat.completion".*"usage":\{.*"total_tokens":.*'
    ),
    "chat_stream.sh": Expected(r'data: \{.*"object":"chat.completion.chunk".*data: \[DONE\]\s*'),
    "errors.py": Expected(""),
    "responses_create.py": Expected(f"Response.*{UNICORN}.*", RESPONSES),
    "responses_create.sh": Expected(f'.*"object":"response".*{UNICORN}.*', RESPONSES),
    "responses_stream.py": Expected(
        "ResponseCreatedEvent.*ResponseInProgressEvent.*ResponseOutputItemAddedEvent"
        ".*ResponseContentPartAddedEvent.*ResponseTextDeltaEvent.*ResponseTextDoneEvent"
        ".*ResponseContentPartDoneEvent.*ResponseOutputItemDoneEvent.*ResponseCompletedEvent.*",
        RESPONSES,
    ),
    "responses_openai.py": Expected("", RESPONSES),
    "responses_anthropic.py": Expected("", ANTHROPIC),
    "responses_gemini.py": Expected(
        "", ("gemini /v1beta/models/gemini-1.5-flash:generateContent",)
    ),
    "responses_retrieve.py": Expected(".*openai heard: Tell me a story.*", RESPONSES),
    "responses_delete.py": Expected(".*", RESPONSES),
    "responses_image.py": Expected("", RESPONSES, ("generated_*.png",)),
    "responses_image_stream.py": Expected("", RESPONSES, ("river0.png",)),
    "responses_previous.py": Expected(
        r"Response ID: resp_\w+\nanthropic heard: Can you tell me more about him\?\n",
        ANTHROPIC * 2,
    ),
    "v0_chat.sh": Expected('.*"content":"openai heard: Hello".*'),
    "claude_chat.py": Expected("anthropic heard: Hello, can you explain.*", ANTHROPIC),
    "claude_chat.sh": Expected('.*"content":"anthropic heard: Hello, can you.*', ANTHROPIC),
    "claude_image.py": Expected(r"anthropic heard: What is .*\? \(an image\)\n", ANTHROPIC),
    "claude_image.sh": Expected(r".*anthropic heard: What is .*\? \(an image\).*", ANTHROPIC),
    "claude_tools.py": Expected(CALLED + r"\n", ANTHROPIC),
    "claude_tools.sh": Expected('.*"name":"get_current_weather".*', ANTHROPIC),
    "go/claude_chat/main.go": Expected("anthropic heard: Hello, can you explain.*", ANTHROPIC),
    "go/claude_image/main.go": Expected(r"anthropic heard: What .*\? \(an image\)\n", ANTHROPIC),
    "go/claude_tools/main.go": Expected(CALLED, ANTHROPIC),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a snippet runs."""
    image = tmp_path / "Path" / "to" / "agi" / "image.jpeg"
    image.parent.mkdir(parents=True)
    image.write_bytes(JPEG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(name: str, stack: Stack, key: str = KEY) -> str:
    """The snippet with its address and its key."""
    text = (FOLDER / name).read_text().replace(ADDRESS, stack.url())
    return re.sub(r"(?<!\$)YOUR_API_KEY", key, text)


def run_python(text: str) -> str:
    printed = io.StringIO()
    # Snippets do not close their clients.
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        exec(compile(text, "snippet", "exec"), {"__name__": "__main__"})
        gc.collect()
    return printed.getvalue()


def run_shell(text: str, folder: Path) -> str:
    commands = folder / "bin"
    commands.mkdir()
    # They were written for macOS, whose base64 breaks no lines.
    own = commands / "base64"
    own.write_text(f'#!/bin/sh\n{shutil.which("base64")} < "$2" | tr -d "\\n"\n')
    own.chmod(0o755)
    (folder / ".curlrc").write_text("silent\nshow-error\nmax-time = 30\n")
    path = f"{commands}:{os.environ['PATH']}"
    return run(["bash", "-euo", "pipefail", "-c", text], folder, {"PATH": path})


def run(command: list[str], folder: Path, env: Mapping[str, str]) -> str:
    whole = {**os.environ, "YOUR_API_KEY": KEY, "CURL_HOME": str(folder), **env}
    done = subprocess.run(
        command, cwd=folder, env=whole, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(name: str, printed: str, calls: list[dict[str, Any]], folder: Path) -> None:
    expected = EXPECTED[name]
    assert re.fullmatch(expected.printed, printed, re.DOTALL), printed
    assert tuple(f"{call['provider']} {call['path']}" for call in calls) == expected.calls
    for pattern in expected.files:
        [file] = folder.glob(pattern)
        assert file.read_bytes().startswith(b"\x89PNG")


def names(end: str) -> list[str]:
    return [name for name in EXPECTED if name.endswith(end)]


def test_every_snippet_is_run() -> None:
    found = (path for path in FOLDER.rglob("*") if path.suffix in (".py", ".sh", ".go"))
    assert {str(path.relative_to(FOLDER)) for path in found} == set(EXPECTED)


@pytest.mark.parametrize("name", names(".py"))
def test_python(stack: Stack, upstream_calls: UpstreamCalls, folder: Path, name: str) -> None:
    check(name, run_python(filled(name, stack)), upstream_calls(), folder)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing")
@pytest.mark.parametrize("name", names(".sh"))
def test_curl(stack: Stack, upstream_calls: UpstreamCalls, folder: Path, name: str) -> None:
    check(name, run_shell(filled(name, stack), folder), upstream_calls(), folder)


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the Go module, whose packages can be built."""
    if not shutil.which("go"):
        pytest.skip("go is missing")
    copy = tmp_path_factory.mktemp("go") / "snippets"
    shutil.copytree(GO, copy)
    try:
        subprocess.run(["go", "mod", "download"], cwd=copy, timeout=60, check=True)
    except subprocess.SubprocessError as exc:
        pytest.skip(f"the packages in go.mod cannot be downloaded: {exc}")
    return copy


@pytest.mark.timeout(400)  # compiles the SDK
@pytest.mark.parametrize("name", names(".go"))
def test_go(stack: Stack, upstream_calls: UpstreamCalls, folder: Path, go: Path, name: str) -> None:
    package = Path(name).parent.name
    (go / package / "main.go").write_text(filled(name, stack))
    run(["go", "build", "-o", str(folder / "snippet"), f"./{package}"], go, {})
    check(name, run([str(folder / "snippet")], folder, {}), upstream_calls(), folder)


@pytest.mark.parametrize("name", ["responses_image.py", "responses_image_stream.py"])
def test_images_are_drawn_for_models_that_cannot(stack: Stack, folder: Path, name: str) -> None:
    run_python(re.sub("openai/gpt-[0-9.]+o?", "anthropic/claude-haiku-4-5", filled(name, stack)))
    for pattern in EXPECTED[name].files:
        [file] = folder.glob(pattern)
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_callers_own_header_reaches_the_provider(
    stack: Stack, upstream_calls: UpstreamCalls, folder: Path
) -> None:
    run_python(filled("chat_extra_headers.py", stack))
    [call] = upstream_calls()
    assert call["headers"]["x-custom-header"] == "value"


def test_what_parameters_say_reaches_the_provider(
    stack: Stack, upstream_calls: UpstreamCalls, folder: Path
) -> None:
    for name in ("chat_temperature", "chat_max_tokens", "chat_json", "chat_tools"):
        run_python(filled(f"{name}.py", stack))
    temperature, tokens, json_mode, tools = (call["body"] for call in upstream_calls())
    assert temperature["temperature"] == 0.7
    assert 100 in (tokens.get("max_tokens"), tokens.get("max_completion_tokens"))
    assert json_mode["response_format"] == {"type": "json_object"}
    assert tools["tools"][0]["function"]["name"] == "get_weather"


def test_errors_are_caught_by_their_classes(
    stack: Stack, upstream_calls: UpstreamCalls, folder: Path
) -> None:
    printed = run_python(filled("errors.py", stack, key="mr-wrong"))
    assert printed.startswith("Authentication failed: Error code: 401")
    unknown = filled("errors.py", stack).replace("openai/gpt-4o", "no-such-model")
    assert run_python(unknown).startswith("API error: Error code: 404")
    assert upstream_calls() == []
