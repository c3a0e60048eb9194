"""Files that came inside a typed request are kept beside it, as those of a form are (R10)."""

from __future__ import annotations

from broker import operations
from broker.translate.refusals import invalid
from broker.v1 import generation_pb2

_PARAMS = {operations.TRANSCRIBE: "file", operations.IMAGE: "images"}


def detach(request: generation_pb2.Request) -> list[bytes]:
    """Put references in place of the bytes of all files; returns the bytes, by their numbers.

    Raises `InferenceError` for a reference: only the edge that has the bytes may make one.
    """
    contents: list[bytes] = []
    for attachment in operations.attachments(request):
        if attachment.HasField("reference"):
            param = _PARAMS[operations.name(request)]
            raise invalid(param, f"Invalid '{param}': send the bytes of the file in 'data'.")
        if attachment.HasField("data"):
            data = attachment.data
            attachment.reference.number = len(contents)
            attachment.reference.size = len(data)
            contents.append(data)
    return contents
