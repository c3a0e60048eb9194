"""Reads multipart/form-data that has one file, and gives its bytes out as they come."""

from __future__ import annotations

from broker.translate.multipart import Fields, FormReader
from broker.translate.refusals import invalid


class FileStream(FormReader):
    """Takes the bytes of a body in; `taken` has those of its file, which are kept nowhere else."""

    def __init__(self, boundary: bytes, field: str) -> None:
        super().__init__(boundary)
        self._field = field
        self._new: list[bytes] = []
        # Of the file: its name, once its headers are there, and how many bytes came.
        self.filename: str | None = None
        self.received = 0

    @property
    def so_far(self) -> Fields:
        """The fields that have come."""
        return self._fields

    def taken(self) -> list[bytes]:
        """What came of the file since the last time."""
        new, self._new = self._new, []
        return new

    def _end_headers(self) -> None:
        super()._end_headers()
        if self._text:
            return
        name, filename = self._named()
        if name != self._field:
            raise invalid(name[:60], f"Unknown file: '{name[:60]}'. Expected '{self._field}'.")
        if self.filename is not None:
            raise invalid(name, f"'{name}' is there twice; give it once.")
        self.filename = filename

    def _keep(self, data: memoryview) -> None:
        self._new.append(bytes(data))
        self.received += len(data)
