"""The catalogue of upstream faults as data: what is required, streamed and whole; pure.

The failoverbench's S01 to S16 (2026-09) are named behind the scene that plays them; the others are
what providers, balancers and proxies in front of them do on other days.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from tests.faults.scenes import SCENES

_ANY = 10_000.0


class End(Enum):
    """How a request may end; nothing else will do."""

    # The right answer, of the provider that was asked or of the next one.
    ITSELF = "itself"
    BACKUP = "backup"
    # A typed error, before content as a status, after it inside the stream.
    ERROR = "error"


@dataclass(frozen=True)
class Required:
    """Ends that are right, calls to the provider that was asked, and seconds, at least and most."""

    ends: tuple[End, ...]
    calls: tuple[int, int] = (1, 1)
    seconds: tuple[float, float] = (0, _ANY)
    # What the error's code is, where there is one.
    code: str = ""


@dataclass(frozen=True)
class Case:
    """A scene that hits the first `hits` calls (0 = all)."""

    scene: str
    hits: int
    stream: bool
    format: str
    required: Required

    @property
    def model(self) -> str:
        """Its own, or breakers would carry over from one case to the next."""
        return f"{self.scene}.{self.hits}.{'stream' if self.stream else 'whole'}.{self.format}"

    def __str__(self) -> str:
        return self.model


ITSELF = Required((End.ITSELF,))
AGAIN = Required((End.ITSELF,), (2, 2))
NEXT = Required((End.BACKUP,))
TRIED = Required((End.BACKUP,), (1, 6), (0, 40))
REFUSED = Required((End.ERROR,))
# What came at once with its end was not shown: then it is the next one's turn.
TOLD = Required((End.ERROR, End.BACKUP), (1, 3), (0, 90))
RETOLD = Required((End.ERROR, End.BACKUP), (2, 6), (1, 90))
SILENT = Required((End.BACKUP,), (1, 1), (9, 45))
NONE = None

# Hits once and hits always, streamed; then both for whole answers.
Row = tuple[Required | None, Required | None, Required | None, Required | None]


def both(once: Required | None, always: Required | None) -> Row:
    """The same streamed and whole."""
    return (once, always, once, always)


# What has nothing wrong with it that matters.
FINE = both(NONE, ITSELF)
# What is over soon: again at the same provider, then the next one.
PASSING = both(AGAIN, TRIED)
# What will not be over soon: the next one at once.
LASTING = both(NONE, NEXT)
# Broken off in the middle: run again and compared when streamed, else as above.
BROKEN: Row = (AGAIN, TOLD, AGAIN, TRIED)
BROKEN_STREAM: Row = (AGAIN, TOLD, NONE, ITSELF)
SILENCE: Row = (NONE, SILENT, NONE, NONE)


def waits(at_least: float) -> Required:
    return replace(AGAIN, seconds=(at_least, 30))


CATALOGUE: dict[str, Row] = {
    "fine": FINE,
    # Statuses.
    "limited": (waits(1.8), TRIED, waits(1.8), TRIED),  # S01, S02
    "limited-ms": (waits(1.8), TRIED, waits(1.8), TRIED),
    "limited-only-ms": (waits(1.8), TRIED, waits(1.8), TRIED),
    "limited-date": (waits(1.8), TRIED, waits(1.8), TRIED),
    "limited-long": LASTING,
    "limited-nonsense": PASSING,
    "limited-past": PASSING,
    "status-429": PASSING,  # S02
    "overloaded-long": LASTING,
    **{f"status-{n}": PASSING for n in (408, 409, 500, 502, 503, 504, 520, 522, 524, 529)},  # S03
    **{f"status-{n}": LASTING for n in (401, 402, 403, 404, 405, 418)},
    "gateway-page": PASSING,  # S04
    "gateway-empty": PASSING,
    "error-cut": both(Required((End.ITSELF,), (2, 2)), TRIED),
    "redirect": both(NONE, TRIED),
    "switch": both(NONE, TRIED),
    "context": both(NONE, replace(REFUSED, code="context_length_exceeded")),  # S12
    "policy": both(NONE, replace(REFUSED, code="content_policy_violation")),  # S13
    # Connections.
    "reset": PASSING,  # S05
    "close": PASSING,
    "hang": SILENCE,  # S06
    "late": SILENCE,  # S07
    "late-token": SILENCE,
    "slow-head": SILENCE,
    "comments-for-ever": SILENCE,
    "half-head": PASSING,
    "no-http": PASSING,
    "large-head": PASSING,
    "interim": FINE,
    # Answers that are none.
    **dict.fromkeys(
        (
            *("page", "page-as-json", "page-as-stream", "empty", "empty-stream", "blank"),
            *("no-content", "null", "object", "list", "text", "number", "deep", "comments-only"),
            *("error-in-200", "overloaded-in-200"),
        ),
        PASSING,
    ),
    # Right answers, oddly sent.
    **dict.fromkeys(
        (
            *("other-way", "no-type", "text-type", "json-type", "until-close", "gzip"),
            *("one-byte", "three-bytes", "crlf", "cr", "bom", "blank-first", "no-space"),
            *("more-fields", "comments-first", "event-2-mb", "comments-between", "unknown-event"),
            *("no-data", "done-twice", "more-behind", "garbage-behind", "finish-twice"),
            *("no-end", "no-end-cut", "no-end-silent", "end-cut", "end-silent"),  # S11
        ),
        FINE,
    ),
    # Broken bodies.
    "longer": FINE,
    "shorter": (AGAIN, TOLD, AGAIN, TRIED),
    "cut-at-close": BROKEN,
    "gzip-cut": BROKEN,
    "gzip-not": PASSING,
    "brotli": PASSING,
    "bad-chunk": BROKEN,
    # Broken off in the middle.
    **dict.fromkeys(
        ("cut", "cut-reset", "ended-early", "event-cut", "bad-json", "page-between"), BROKEN
    ),  # S08, S10, S14
    # The next call does not begin; else as above, or told after some tries.
    "cut-then-503": (AGAIN, RETOLD, NONE, NONE),  # S08
    "cut-then-429": (AGAIN, RETOLD, NONE, NONE),
    "cut-then-reset": (AGAIN, NONE, NONE, NONE),
    "cut-then-hang": (AGAIN, NONE, NONE, NONE),
    "stall": (replace(AGAIN, seconds=(9, 45)), replace(TOLD, seconds=(9, 90)), NONE, NONE),  # S09
    "only-pings": (AGAIN, TOLD, NONE, NONE),
    "error-event": BROKEN,
    "error-event-open": BROKEN,
    "overloaded-event": BROKEN,
    "limited-event": BROKEN,
    "no-finish": BROKEN_STREAM,
    "event-20-mb": BROKEN_STREAM,
}


def cases() -> Iterator[Case]:
    """All of them."""
    unlisted = {name for name in SCENES if not name.startswith("status-")} - set(CATALOGUE)
    assert not unlisted, unlisted
    for scene, (once_streamed, always_streamed, once, always) in CATALOGUE.items():
        for hits, stream, required in (
            (1, True, once_streamed),
            (0, True, always_streamed),
            (1, False, once),
            (0, False, always),
        ):
            if required is not None:
                for format_ in ("openai", "anthropic"):
                    yield Case(scene, hits, stream, format_, required)
