"""Verified resume (R4): what was shown of an answer, and the check of a second run; pure.

Whole channels are compared (the text, the reasoning, each tool call's arguments), so it does not
matter how either run was cut into deltas. What cannot be compared (signatures, log probabilities,
audio, images, hosted tools) makes an answer not resumable.
"""

from __future__ import annotations

from broker.errors import InferenceError
from broker.v1 import event_pb2

# Kinds of events that carry something the caller sees.
CONTENT = frozenset(
    {
        "text",
        "reasoning",
        "refusal",
        "tool_call",
        "audio",
        "image",
        "blob",
        "opaque",
        "annotation",
        "choice_finished",
        "vectors",
        "image_facts",
        "transcript",
        "transcript_segment",
        "moderation",
        "ranked",
        "token_count",
    }
)
_COMPARABLE = frozenset({"text", "reasoning", "refusal", "tool_call", "choice_finished"})

_FINISH = "choice_finished"

_Key = tuple[str, int, int]


class Transcript:
    """What was shown so far; after `rewind`, the check of the next run."""

    def __init__(self) -> None:
        self.resumable = True
        # Texts of choice 0 apart: they are nearly all there is.
        self._text: list[str] = []
        self._shown: dict[_Key, list[str]] = {("text", 0, 0): self._text}
        self._expected: dict[_Key, str] = {}

    @property
    def text_alone(self) -> str:
        """The text of the first answer, if nothing but that was shown; else empty."""
        return "".join(self._text) if len(self._shown) == 1 else ""

    def show(self, kind: str, event: event_pb2.Event) -> None:
        """Remember an event that the caller was shown."""
        if kind not in _COMPARABLE:
            self.resumable = False
            return
        key, text = _channel(kind, event)
        if kind in {"text", "refusal"} and getattr(event, kind).logprobs:
            self.resumable = False
        self._shown.setdefault(key, []).append(text)

    def show_text(self, delta: event_pb2.TextDelta) -> None:
        """`show` for what nearly all events are."""
        if delta.logprobs:
            self.resumable = False
        elif delta.choice == 0:
            self._text.append(delta.text)
        else:
            self._shown.setdefault(("text", delta.choice, 0), []).append(delta.text)

    def rewind(self) -> None:
        """The answer is run again: expect what was shown."""
        self._expected = {key: "".join(parts) for key, parts in self._shown.items()}

    def check(self, kind: str, event: event_pb2.Event) -> event_pb2.Event | None:
        """The part of an event of the new run that was not shown yet, or None.

        Raises `InferenceError` worker_lost when the new run says something else.
        """
        if kind not in _COMPARABLE:
            return event
        key, text = _channel(kind, event)
        if kind == _FINISH:
            return self._finished(key, text, event)
        expected = self._expected.get(key, "")
        overlap = min(len(expected), len(text))
        if text[:overlap] != expected[:overlap]:
            raise _mismatch()
        if overlap:
            self._expected[key] = expected[overlap:]
        rest = text[overlap:]
        if not rest:
            return None
        if (_FINISH, key[1], 0) in self._shown:
            raise _mismatch()  # a reader has been told that nothing more comes
        if not overlap and key not in self._shown:
            return event
        if kind == "tool_call":
            event.tool_call.arguments = rest
            # The id that was shown stays: a second run mints another one.
            event.tool_call.call_id = event.tool_call.name = ""
        else:
            getattr(event, kind).text = rest
        return event

    def _finished(self, key: _Key, reason: str, event: event_pb2.Event) -> event_pb2.Event | None:
        """A choice of the new run ends: everything that was shown of it has to be in it."""
        shown = self._expected.pop(key, "")
        if shown and shown != reason:
            raise _mismatch()
        if any(left for (_, choice, _), left in self._expected.items() if choice == key[1]):
            raise _mismatch()
        return None if key in self._shown else event

    def finish(self) -> None:
        """The new run is complete: everything that was shown has to be in it."""
        if any(self._expected.values()):
            raise _mismatch()

    def count(self, usage: event_pb2.Usage) -> None:
        """The usage of the new run is that of the whole answer."""


def _channel(kind: str, event: event_pb2.Event) -> tuple[_Key, str]:
    """The channel of an event, and what it adds there."""
    if kind == _FINISH:
        finished = event.choice_finished
        return (kind, finished.choice, 0), str(finished.reason)
    if kind == "tool_call":
        call = event.tool_call
        # The name opens the channel, so that a call of another tool never matches.
        head = f"{call.name}\0" if call.name else ""
        return (kind, call.choice, call.index), head + call.arguments
    if kind == "reasoning":  # a summary is shown elsewhere than the reasoning itself
        return (kind, event.reasoning.choice, int(event.reasoning.summary)), event.reasoning.text
    delta = getattr(event, kind)
    return (kind, delta.choice, 0), delta.text


def _mismatch() -> InferenceError:
    return InferenceError(
        "worker_lost",
        "the answer was interrupted, and running it again gave a different text; "
        "what was shown is incomplete: send the request again",
        phase="content",
    )
