"""What providers' own batch APIs have in common: calls to make of them, and their answers; pure.

None of them touches the world: `workers.native` makes the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from workers.wire import Call


@dataclass(frozen=True, slots=True)
class There:
    """A batch as its provider tells of it."""

    id: str
    # Nothing becomes of it any more.
    over: bool
    # Paths of what became of its lines.
    results: tuple[str, ...] = ()
    # It was refused as a whole; the provider's word for why.
    refused: str = ""
    # It was refused for a limit: it may be taken later.
    later: bool = False
    # What it was named when it was made, where that can be said; and how many lines it has.
    name: str = ""
    lines: int = 0
    # Of its files at the provider.
    files: tuple[str, ...] = ()
    # Where its results are, if they have to be looked for there: see `Folders`.
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list of batches, the newest first; `after` asks for the next one, if any."""

    batches: tuple[There, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a line: the answer to its call; status 0 where it was never made."""

    custom_id: str
    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class BatchApi(Protocol):
    """A provider's batch API. What reads an answer raises ValueError where it cannot."""

    @property
    def headers(self) -> frozenset[str]:
        """Headers of a line's call that need not be sent with the line."""
        ...

    @property
    def named(self) -> bool:
        """Whether batches can be told apart in the list by the names they were given."""
        ...

    @property
    def least(self) -> int:
        """Lines that a batch has at least."""
        ...

    def takes(self, call: Call) -> bool:
        """Whether it takes such a call; its headers apart."""
        ...

    def line(self, custom_id: str, call: Call) -> bytes:
        """A line as it is handed over."""
        ...

    def upload(self, name: str, lines: Sequence[bytes]) -> Call | None:
        """The call that stores the lines as a file; None where they go with the batch itself."""
        ...

    def uploaded(self, name: str, answer: bytes) -> str:
        """The id of the file that was stored by this name."""
        ...

    def create(self, name: str, path: str, model: str, file: str, lines: Sequence[bytes]) -> Call:
        """The call that makes the batch, of the lines or of their file."""
        ...

    def get(self, batch: str) -> Call:
        """The call that asks for a batch."""
        ...

    def cancel(self, batch: str) -> Call:
        """The call that cancels a batch."""
        ...

    def there(self, answer: bytes) -> There:
        """The batch that was made or asked for."""
        ...

    def list(self, name: str, after: str) -> Call:
        """The call that asks for a page of the list; of a batch's name where that can be said."""
        ...

    def page(self, answer: bytes) -> Page:
        """That page."""
        ...

    def results(self, path: str) -> Call:
        """The call that asks for a file of results."""
        ...

    def row(self, line: bytes) -> Row:
        """A line of the results."""
        ...

    def discard(self, file: str) -> Call:
        """The call that deletes a file."""
        ...


@runtime_checkable
class Folders(Protocol):
    """A batch API that puts results into a folder, and does not say under which names."""

    def contents(self, folder: str) -> Call:
        """The call that asks what is in a folder."""
        ...

    def filled(self, there: There, answer: bytes) -> There:
        """The batch with its results and all files of its folder."""
        ...
