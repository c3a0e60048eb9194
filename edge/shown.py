"""What was shown of one answer, and how another run goes on from there (R4); pure."""

from __future__ import annotations

from broker.continuation import Continuation, prefilled
from broker.resume import Transcript
from broker.routing import Target
from broker.v1 import event_pb2


class Shown:
    """See the module. `asked` is the request, encoded; what is not streamed is shown at its end.

    With `prefills` a model may be handed what was shown, where it takes that.
    """

    __slots__ = ("_asked", "_check", "_prefills", "_streams", "_transcript", "asked", "taken")

    def __init__(self, asked: bytes, *, streams: bool, prefills: bool) -> None:
        # What the present run is asked, and the first one was.
        self.asked = self._asked = asked
        # Whether the caller took any of it.
        self.taken = False
        self._streams = streams
        self._prefills = prefills
        self._transcript = Transcript()
        # The check of a run that follows shown content.
        self._check: Transcript | Continuation | None = None

    @property
    def any(self) -> bool:
        """Whether the caller was shown anything that cannot be taken back."""
        return self._streams and self.taken

    @property
    def resumable(self) -> bool:
        """Whether another run can be compared with what was shown."""
        return self._transcript.resumable

    @property
    def follows(self) -> bool:
        """Whether the present run goes on from what was shown."""
        return self._check is not None

    def show(self, kind: str, event: event_pb2.Event) -> event_pb2.Event | None:
        """The content to show of an event, remembered; None where all of it was shown before.

        Raises `InferenceError` where it is not what was shown.
        """
        if self._check is not None:
            fresh = self._check.check(kind, event)
            if fresh is None:
                return None
            event = fresh
        if self._streams:
            if kind == "text":
                self._transcript.show_text(event.text)
            else:
                self._transcript.show(kind, event)
        return event

    def finish(self, usage: event_pb2.Usage) -> None:
        """The run is complete. Raises `InferenceError` where less came of it than was shown."""
        if self._check is not None:
            self._check.finish()
            self._check.count(usage)

    def go_on(self, target: Target) -> str:
        """Let the next run, at `target`, follow what was shown; returns what is to be told of that.

        It is handed to the model to continue, or compared with what the model says again.
        """
        self.asked = self._asked
        if self._prefills and target.prefill:
            begun = prefilled(self._asked, self._transcript)
            if begun is not None:
                self.asked, self._check = begun
                return "continued by prefill"
        self._transcript.rewind()
        self._check = self._transcript
        return ""

    def give_up_prefill(self) -> bool:
        """Whether the present run continues by prefill; the next one will not."""
        if not isinstance(self._check, Continuation):
            return False
        self._prefills = False
        return True

    def forget(self) -> None:
        """The answer begins anew, with what was asked."""
        self.asked = self._asked
        self._check = None
        self._transcript = Transcript()
