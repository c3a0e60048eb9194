"""Completes prompts where a provider lacks something of it, or all of it: then through chat.

Each prompt is a call then, or as many as there are choices of it; the prompt is repeated here. What
cannot be had from chat is refused, because the text would be another one than asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker import operations
from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2, operations_pb2
from workers.emulation.choices import Choices
from workers.emulation.steps import Step
from workers.provider import Completes, Provider

_Complete = operations_pb2.CompleteRequest
_Request = generation_pb2.Request
# Of completions, what chat has not.
_NOT_IN_CHAT = frozenset({"suffix", "best_of", "tokens", "prompts", "echo"})
# What is no completion without it: whether the request asks for it, the field, and what to do.
_NEEDED: dict[str, tuple[Callable[[_Complete], bool], str, str]] = {
    "suffix": (lambda c: bool(c.suffix), "suffix", "leave it out"),
    "best_of": (lambda c: c.best_of > max(c.n, 1), "best_of", "leave it out"),
    "tokens": (lambda c: bool(c.tokens), "prompt", "send it as text"),
}
# As at OpenAI.
_MOST_CALLS = 128
_MAX_TOKENS = 16
_SAME = (
    *("stream", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"),
    *("n", "user"),
)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The plan for such a request: what is asked for each prompt, and how often."""

    # The operation that the provider is asked for.
    operation: str
    asked: Sequence[_Request]
    # Calls for each prompt, and choices of each call.
    often: int
    choices: int
    # Shown before the text of each choice.
    echoes: Sequence[str]
    make_steps: Callable[[], Sequence[Step]] = field(default=list)

    @property
    def calls(self) -> int:
        """How many there are all in all."""
        return len(self.asked) * self.often

    def steps(self) -> Sequence[Step]:
        """Steps for the events of one call."""
        return self.make_steps()

    def request_of(self, call: int) -> _Request:
        """The request of one of the calls: a seed that is the same would give the same answer."""
        number, shift = divmod(call, self.often)
        request = self.asked[number]
        asked: Any = getattr(request, self.operation)
        if not shift or not asked.HasField("seed"):
            return request
        other = _Request()
        other.CopyFrom(request)
        # Some providers take 32 bits.
        getattr(other, self.operation).seed = (asked.seed + shift) % 2**31
        return other

    def joint(self) -> Joint:
        """What makes one answer of the calls' answers."""
        echoes = [echo for echo in self.echoes for _ in range(self.often)]
        return Joint(self.calls, self.choices, echoes)

    def again_after(self, _tries: int, _error: InferenceError, _jitter: float) -> float | None:
        """No call is made once more: its answer would be another one."""
        return None


class Joint:
    """The choices of all calls, in order of the prompts, each behind its echo if it has one."""

    def __init__(self, calls: int, each: int, echoes: Sequence[str]) -> None:
        self._choices = Choices(calls, each)
        self._each = each
        self._echoes = echoes
        self._begun: set[int] = set()

    def add(self, call: int, events: Iterable[event_pb2.Event]) -> list[event_pb2.Event]:
        """The events of the whole answer that these events of one call make."""
        return self._choices.add(call, self._echoed(call, events))

    def _echoed(self, call: int, events: Iterable[event_pb2.Event]) -> Iterator[event_pb2.Event]:
        for event in events:
            yield event
            if self._echoes and call not in self._begun and event.HasField("started"):
                self._begun.add(call)
                for choice in range(self._each):
                    echo = event_pb2.TextDelta(choice=choice, text=self._echoes[call])
                    yield event_pb2.Event(text=echo)


def prompts_of(
    request: _Request,
    model: str,
    provider: Provider,
    chat_plan: Callable[[_Request, str, Provider], Any],
) -> Prompts | None:
    """The plan for a completion; None where the dialect does all of it.

    `chat_plan` plans a chat request. Raises `InferenceError` for what cannot be had here.
    """
    complete = request.complete
    dialect = provider.operations.get(operations.COMPLETE)
    lacks = dialect.lacks(model) if isinstance(dialect, Completes) else None
    through_chat = lacks is None
    missing = _NOT_IN_CHAT if lacks is None else lacks
    for name in sorted(missing & _NEEDED.keys()):
        wanted, param, instead = _NEEDED[name]
        if wanted(complete):
            raise _unsupported(model, param, instead)
    echoed = complete.echo and "echo" in missing
    if echoed and complete.HasField("logprobs"):
        raise _unsupported(model, "logprobs", "not with echo")
    if through_chat and complete.HasField("max_tokens") and not complete.max_tokens:
        raise _unsupported(model, "max_tokens", "ask for 1 at least")
    several = len(complete.prompts) or len(complete.tokens)
    wanted_choices = max(complete.n, 1)
    in_calls = wanted_choices > 1 and "n" in missing
    apart = several > 1 and ("prompts" in missing or echoed or in_calls)
    if not (through_chat or echoed or apart or in_calls):
        return None
    bare = [_bare(request, number, echoed, in_calls) for number in _parts(several, apart=apart)]
    often, steps = wanted_choices if in_calls else 1, list[Step]
    if through_chat:
        bare = [_as_chat(one) for one in bare]
        inner = chat_plan(bare[0], model, provider.serving(bare[0], model))
        if inner is not None:
            often, steps = inner.calls, inner.steps
            for one in bare:
                _take_over(one, inner.request)
    if often * len(bare) > _MOST_CALLS:
        message = f"prompts times n are at most {_MOST_CALLS} here"
        raise InferenceError("invalid_request", message, param="n")
    return Prompts(
        operations.GENERATE if through_chat else operations.COMPLETE,
        bare,
        often,
        wanted_choices // often,
        list(complete.prompts) if echoed else (),
        steps,
    )


def _parts(several: int, *, apart: bool) -> Iterable[int | None]:
    """The prompt of each request; None = all of them."""
    return range(several) if apart else (None,)


def _bare(request: _Request, number: int | None, echoed: bool, in_calls: bool) -> _Request:
    """The request for one prompt or for all, without what is done here."""
    bare = _Request()
    bare.CopyFrom(request)
    complete = bare.complete
    if number is not None:
        del complete.prompts[:], complete.tokens[:]
        complete.prompts.extend(request.complete.prompts[number : number + 1])
        complete.tokens.extend(request.complete.tokens[number : number + 1])
    if echoed:
        complete.ClearField("echo")
    if in_calls:
        complete.ClearField("n")
        complete.ClearField("best_of")
    return bare


def _as_chat(request: _Request) -> _Request:
    """One user's message that is the prompt."""
    complete = request.complete
    chat = _Request(platform=request.platform)
    generate = chat.generate
    generate.model = complete.model
    generate.surface = generation_pb2.SURFACE_COMPLETIONS
    generate.messages.add(role=content_pb2.ROLE_USER).parts.add().text.text = complete.prompts[0]
    for name in _SAME:
        if complete.HasField(name):  # type: ignore[arg-type]
            setattr(generate, name, getattr(complete, name))
    limited = complete.HasField("max_tokens")
    generate.max_output_tokens = complete.max_tokens if limited else _MAX_TOKENS
    generate.stop.extend(complete.stop)
    generate.logit_bias.update(complete.logit_bias)
    if complete.HasField("logprobs"):
        generate.logprobs = True
        generate.top_logprobs = complete.logprobs
    generate.extra.update(complete.extra)
    return chat


def _take_over(request: _Request, planned: _Request) -> None:
    """Leave out what the plan of the first of these requests leaves out."""
    if not planned.generate.n:
        request.generate.ClearField("n")
    if not planned.generate.stop:
        request.generate.ClearField("stop")


def _unsupported(model: str, param: str, instead: str) -> InferenceError:
    message = f"{model} cannot do that with {param!r}: {instead}"
    return InferenceError("unsupported_parameter", message, param=param)
