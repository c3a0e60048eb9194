"""`millrace chat`: asks one question over HTTP and prints the answer as it streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import typer

from broker.cli.api import check, client, error_line
from broker.cli.options import fail
from broker.settings import Settings


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask; a prompt of "-" stands for standard input."""

    model: str
    prompt: str
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    def body(self) -> dict[str, Any]:
        """The request of the OpenAI API."""
        prompt = sys.stdin.read() if self.prompt == "-" else self.prompt
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": prompt})
        options = {"max_completion_tokens": self.max_tokens, "temperature": self.temperature}
        given = {name: value for name, value in options.items() if value is not None}
        return {"model": self.model, "messages": messages, "stream": True, **given}


def ask(settings: Settings, question: Question) -> None:
    """Print the answer; ends the command with an error line when there is none."""
    body = question.body()
    try:
        with (
            client(settings) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if not response.is_success:
                response.read()
            check(response)
            for text in _texts(response):
                sys.stdout.write(text)
                sys.stdout.flush()
            sys.stdout.write("\n")
    except KeyboardInterrupt:
        # Leaving closes the connection, which cancels the request.
        sys.stdout.write("\n")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(141) from None


def _texts(response: httpx.Response) -> Iterator[str]:
    """The pieces of text of an event stream."""
    finish = None
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            if finish == "length":
                typer.echo("\nmillrace: the answer reached its longest length", err=True)
            return
        event = json.loads(data)
        if event.get("error"):
            sys.stdout.write("\n")
            fail(error_line(event))
        for choice in event.get("choices", ()):
            finish = choice.get("finish_reason") or finish
            delta = choice.get("delta", {})
            if text := delta.get("content") or delta.get("refusal"):
                yield text
    sys.stdout.write("\n")
    fail("the answer was cut off")
