"""Answers completions as the simulator answers chat: each prompt is a user's message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from workers.sim.answer import Answer, Choice, answer_to
from workers.sim.knobs import BadRequestError

_MAX_TOKENS = 16
_OTHERS = ("prompt", "suffix", "echo", "best_of", "logprobs")


def completion_to(body: bytes, call_number: int) -> Answer:
    """The answer to the body of a completion request.

    Raises:
        BadRequestError: as `answer_to`.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(request, dict):
        raise BadRequestError("the body must be a JSON object")
    answers: list[Answer] = []
    choices: list[Choice] = []
    for prompt in _prompts(request.get("prompt")):
        answer = answer_to(orjson.dumps(_as_chat(request, prompt)), call_number)
        answers.append(answer)
        before = (prompt,) if request.get("echo") and prompt else ()
        # 0 tokens are asked for by those who want the prompt alone.
        silent = request.get("max_tokens") == 0
        for choice in answer.choices:
            text = before if silent else (*before, *choice.text)
            choices.append(replace(choice, text=text, reasoning=(), calls=()))
    prompt_tokens = sum(answer.ask.prompt_tokens for answer in answers)
    ask = replace(answers[0].ask, prompt_tokens=prompt_tokens, legacy=True)
    return Answer(ask, answers[0].knobs, tuple(choices))


def _prompts(given: Any) -> Sequence[str]:
    """The prompts as texts; tokens are their numbers."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if isinstance(given[0], int):
            return [" ".join(map(str, given))]
        lists = isinstance(given[0], list)
        return [" ".join(map(str, one)) for one in given] if lists else [str(one) for one in given]
    raise BadRequestError("prompt must be a text or a list", param="prompt")


def _as_chat(request: dict[str, Any], prompt: str) -> dict[str, Any]:
    chat = {name: value for name, value in request.items() if name not in _OTHERS}
    wanted = request.get("logprobs")
    return {
        **chat,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": request.get("max_tokens") or _MAX_TOKENS,
        "logprobs": wanted is not None,
        "top_logprobs": wanted or 0,
    }
