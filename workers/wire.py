"""One HTTP call to a provider, as values; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.v1.operations_pb2 import Attachment

# The fields of a multipart form, in their order: texts and files.
Form = tuple[tuple[str, str | Attachment], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call to make: `path` is appended to the provider's base URL."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    # Parameters the provider cannot take and that were left out, by their OpenAI names.
    dropped: tuple[str, ...] = ()
    # Stands in for the provider's base URL, such as that of another region; "" = it does not.
    base_url: str = ""
    # Sent in place of `body`, its files as they come from the edge.
    form: Form = ()
    # What it is signed for, where that is another service than the provider itself.
    service: str = ""
