"""Continuation by prefill: a cut answer goes on from what was shown, unverified; pure.

For callers that ask for it, at providers that continue an assistant's message. The model reads what
it has said and goes on, so that nothing is written twice; that the rest is what it would have said
is not known, which is why verified resume is the default.
"""

from __future__ import annotations

from broker.errors import InferenceError
from broker.resume import Transcript
from broker.routing.reading import CHARACTERS_PER_TOKEN
from broker.v1 import content_pb2, event_pb2, generation_pb2

# With less than this shown, a model that begins anew could not be told from one that goes on.
_LEAST = 20
_LIMITS = ("max_output_tokens", "max_tokens")
_FREE_FORMS = (
    generation_pb2.ResponseFormat.KIND_UNSPECIFIED,
    generation_pb2.ResponseFormat.KIND_TEXT,
)
# What a continuation has no place for behind the text that was shown.
_LEFT_OUT = frozenset({"reasoning", "blob"})


def prefilled(raw: bytes, transcript: Transcript) -> tuple[bytes, Continuation] | None:
    """The request that continues what was shown, and what joins its answer to that.

    None where it is not to be continued: more than the text of one answer was shown, or too little,
    or the answer has a form of its own.
    """
    shown = transcript.text_alone
    said = shown.rstrip()
    request = generation_pb2.Request.FromString(raw)
    asked = request.generate
    if (
        len(said) < _LEAST
        or asked.n > 1
        or not asked.messages
        or asked.messages[-1].role == content_pb2.ROLE_ASSISTANT
        or asked.response_format.kind not in _FREE_FORMS
    ):
        return None
    tokens = _tokens(shown)
    for name in _LIMITS:
        if asked.HasField(name):  # type: ignore[arg-type]
            left = getattr(asked, name) - tokens
            if left <= 0:
                return None
            setattr(asked, name, left)
    message = asked.messages.add(role=content_pb2.ROLE_ASSISTANT, continued=True)
    message.parts.add().text.text = said
    return request.SerializeToString(), Continuation(shown, said)


class Continuation:
    """Joins the rest of an answer to what was shown of it.

    Some providers repeat the message that they continue; spaces at its end were not sent, since
    some refuse them, and come again.
    """

    def __init__(self, shown: str, said: str) -> None:
        self._tokens = _tokens(shown)
        # What may be repeated, and the spaces that may follow it.
        self._echo = said
        self._spaces = shown[len(said) :]
        self._held = ""
        self._begun = False

    def check(self, kind: str, event: event_pb2.Event) -> event_pb2.Event | None:
        """What of an event was not shown yet, or None. Raises `InferenceError` worker_lost."""
        if kind == "text" and not event.text.choice:
            self._begun = True
            event.text.text = self._joined(event.text.text)
            return event if event.text.text else None
        if kind in _LEFT_OUT:
            return None
        self.finish()
        if kind == "tool_call" and not self._begun:
            event.tool_call.item += 1  # the text that was shown is the first item
        return event

    def finish(self) -> None:
        """No text follows: raises where it is not known whether the last one was a repetition."""
        if self._held:
            raise InferenceError(
                "worker_lost",
                "the answer was interrupted, and its continuation cannot be joined to what was "
                "shown, which is incomplete: send the request again",
                phase="content",
            )

    def count(self, usage: event_pb2.Usage) -> None:
        """Count what was shown as output, which the provider has counted as input."""
        moved = min(self._tokens, usage.input_tokens)
        usage.input_tokens -= moved
        usage.output_tokens += moved
        usage.estimated = True

    def _joined(self, text: str) -> str:
        if self._echo:
            self._held += text
            if len(self._held) < len(self._echo) and self._echo.startswith(self._held):
                return ""
            text = self._held.removeprefix(self._echo)
            self._echo = self._held = ""
        while self._spaces and text:
            if text[0] != self._spaces[0]:
                self._spaces = ""
                break
            text, self._spaces = text[1:], self._spaces[1:]
        return text


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
