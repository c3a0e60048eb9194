"""The `Range` of a request for part of a body; pure."""

from __future__ import annotations

import re

from broker.errors import InferenceError

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*")


def read_range(given: str | None, size: int) -> tuple[int, int] | None:
    """The bytes asked for, from the first to behind the last; None where it is all of them.

    What is no range of bytes is ignored, as RFC 9110 has it, and so are several at once.

    Raises:
        InferenceError: range_not_satisfiable; none of these bytes is there.
    """
    found = _RANGE.fullmatch(given or "")
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last or size) + 1, size)
        if last and int(last) < start:
            return None
    if start >= end:
        raise InferenceError(
            "range_not_satisfiable",
            f"the file has {size} bytes, and none of {found[0].strip()}",
            param="Range",
        )
    return start, end
