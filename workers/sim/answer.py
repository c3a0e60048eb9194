"""What the simulator answers (words, reasoning, tool calls, usage): a function of the request.

A token is a word with the space before it. A prompt costs 4 tokens per message plus one per 4
characters of text (rounded up per text) and 85 per part that is not text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from workers.sim.knobs import BadRequestError, Knobs, knobs_of

GREETING = (
    "Hello from sim, the built-in stand-in for a provider: "
    "the whole journey was real, only these words are made up."
)
WORDS = re.findall(
    r"\w+",
    "river stone amber willow lantern harbor meadow copper thistle ember canyon velvet orchard "
    "falcon marble cedar ripple beacon juniper saddle timber quartz heron bramble linen summit "
    "pebble anchor maple drift garnet hollow kettle lilac mosaic nectar opal prairie quiver raven "
    "silver tundra umber valley walnut yarrow zephyr basin clover dune fern glacier hazel inlet "
    "jasper kelp lagoon mill north oat pine",
)
PIECE_BYTES = 1024
_PROMPT_TOKENS_PER_MESSAGE = 4
_PROMPT_TOKENS_PER_OTHER_PART = 85
_ARGUMENT_PIECE = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """The parts of a chat request that shape the answer."""

    model: str
    stream: bool
    include_usage: bool
    last_user_text: str
    prompt_tokens: int
    max_tokens: int | None
    stop: tuple[str, ...]
    n: int
    logprobs: bool
    top_logprobs: int
    tools: tuple[tuple[str, Any], ...]
    # Whether it is a completion.
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; its arguments come in pieces of one token each."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer, in pieces of one token each."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    finish: str

    @property
    def tokens(self) -> int:
        """Tokens produced, reasoning included."""
        arguments = sum(len(call.arguments) for call in self.calls)
        return len(self.reasoning) + len(self.text) + arguments


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices of a call, with the request and the knobs they came from."""

    ask: Ask
    knobs: Knobs
    choices: tuple[Choice, ...]

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    @property
    def usage(self) -> dict[str, Any]:
        """The OpenAI `usage` object."""
        prompt, completion = self.ask.prompt_tokens, self.completion_tokens
        reasoning = sum(len(choice.reasoning) for choice in self.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
        }


def answer_to(body: bytes, call_number: int) -> Answer:
    """The answer to the body of a chat request.

    Args:
        body: the JSON as it came.
        call_number: only the knob `vary` looks at it.

    Raises:
        BadRequestError: not JSON, a field of the wrong shape, or an unknown knob.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(request, dict):
        raise BadRequestError("the body must be a JSON object")
    ask = _ask(request)
    knobs = knobs_of(ask.model, request.get("sim"))
    if knobs.tool_call and not ask.tools and request.get("tool_choice") != "none":
        raise BadRequestError("tool_call needs at least one function in tools", param="tools")
    seed = zlib.crc32(ask.last_user_text.encode(errors="surrogatepass"))
    if knobs.vary:
        seed = zlib.crc32(str(call_number).encode(), seed)
    choices = (_choice(ask, knobs, seed + index) for index in range(ask.n))
    return Answer(ask, knobs, tuple(choices))


def _ask(request: dict[str, Any]) -> Ask:
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("model must be a name", param="model")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a list with at least one message", param="messages")
    stop = request.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise BadRequestError("stop must be a text or a list of texts", param="stop")
    options = request.get("stream_options")
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise BadRequestError("max_tokens must be a whole number from 1", param="max_tokens")
    count = request.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= 128:
        raise BadRequestError("n must be a whole number from 1 to 128", param="n")
    last, prompt_tokens = _prompt(messages)
    choice = request.get("tool_choice")
    return Ask(
        model=model,
        stream=request.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        last_user_text=last,
        prompt_tokens=prompt_tokens,
        max_tokens=limit,
        stop=tuple(stop),
        n=count,
        logprobs=request.get("logprobs") is True,
        top_logprobs=request.get("top_logprobs") or 0,
        tools=tuple(_tools(request.get("tools") or ())) if choice != "none" else (),
    )


def _prompt(messages: list[Any]) -> tuple[str, int]:
    last, tokens = "", 0
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError(
                "a message is an object with a role", param=f"messages[{place}].role"
            )
        texts, others = _texts(message.get("content"))
        tokens += _PROMPT_TOKENS_PER_MESSAGE + others * _PROMPT_TOKENS_PER_OTHER_PART
        tokens += sum((len(text) + 3) // 4 for text in texts)
        if message["role"] == "user":
            last = "".join(texts)
    return last, tokens


def _texts(content: object) -> tuple[list[str], int]:
    if isinstance(content, str):
        return [content], 0
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and "text" in part]
    return texts, len(parts) - len(texts)


def _tools(tools: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"], function.get("parameters") or {}


def _choice(ask: Ask, knobs: Knobs, seed: int) -> Choice:
    reasoning = tuple(_words(seed + 7, knobs.reasoning))
    if knobs.tool_call and ask.tools:
        calls = tuple(_call(ask, seed, index) for index in range(knobs.tool_call))
        return Choice(reasoning, (), calls, knobs.finish or "tool_calls")
    text, finish = _stopped(_text(ask, knobs, seed), ask.stop), "stop"
    choice = Choice(reasoning, text, (), knobs.finish or finish)
    if ask.max_tokens is not None and choice.tokens > ask.max_tokens:
        left = max(0, ask.max_tokens - len(reasoning))
        return replace(
            choice, reasoning=reasoning[: ask.max_tokens], text=text[:left], finish="length"
        )
    return choice


def _text(ask: Ask, knobs: Knobs, seed: int) -> tuple[str, ...]:
    if knobs.bytes is not None:
        pieces = knobs.tokens or max(1, -(-knobs.bytes // PIECE_BYTES))
        return tuple(_filled(seed, knobs.bytes, pieces))
    if knobs.echo:
        return tuple(re.findall(r"\s*\S+|\s+", ask.last_user_text))
    if knobs.tokens is not None:
        return tuple(_words(seed, knobs.tokens))
    if knobs.vary:
        return tuple(_words(seed, 20))
    return tuple(re.findall(r"\s*\S+", GREETING))


def _words(seed: int, count: int) -> list[str]:
    # WORDS has a prime length, so every stride visits all of them.
    size = len(WORDS)
    stride = 1 + seed // size % (size - 1)
    words = [" " + WORDS[(seed + place * stride) % size] for place in range(count)]
    if words:
        words[0] = words[0][1:]
    return words


def _filled(seed: int, total: int, pieces: int) -> Iterator[str]:
    each, left_over = divmod(total, pieces)
    text = "".join(_words(seed, each // 4 + 2))
    for place in range(pieces):
        yield text[: each + (place < left_over)]


def _stopped(pieces: tuple[str, ...], stop: tuple[str, ...]) -> tuple[str, ...]:
    if not stop:
        return pieces
    whole = "".join(pieces)
    found = [at for at in (whole.find(text) for text in stop if text) if at >= 0]
    if not found:
        return pieces
    room, kept = min(found), []
    for piece in pieces:
        if room <= 0:
            break
        kept.append(piece[:room])
        room -= len(piece)
    return tuple(kept)


def _call(ask: Ask, seed: int, index: int) -> ToolCall:
    name, parameters = ask.tools[index % len(ask.tools)]
    arguments = orjson.dumps(_example(parameters, seed + index)).decode()
    pieces = (
        arguments[at : at + _ARGUMENT_PIECE] for at in range(0, len(arguments), _ARGUMENT_PIECE)
    )
    return ToolCall(f"call_sim_{seed & 0xFFFFFFFF:08x}_{index}", name, tuple(pieces))


def _example(schema: Any, seed: int) -> Any:
    """A value that fits the common parts of a JSON schema."""
    if not isinstance(schema, dict):
        return {}
    if schema.get("enum"):
        return schema["enum"][seed % len(schema["enum"])]
    kind = schema.get("type", "object")
    plain = {
        "string": WORDS[seed % len(WORDS)],
        "integer": seed % 100,
        "number": seed % 100 + 0.5,
        "boolean": bool(seed % 2),
        "null": None,
    }
    if isinstance(kind, list):
        kind = kind[0] if kind else "object"
    if kind in plain:
        return plain[kind]
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}), seed + 1)]
    properties = schema.get("properties") or {}
    return {
        name: _example(inner, seed + place)
        for place, (name, inner) in enumerate(properties.items())
    }
