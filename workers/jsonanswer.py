"""Reads the JSON of an answer that came with status 200, and says so where it is none; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2
from workers.headers import request_id

# What reading JSON of another shape than the documented one raises.
NONSENSE = (AttributeError, IndexError, KeyError, TypeError, ValueError)

# No text answer comes near it, and a few generated images in base64 come near half of it.
_BODY_LIMIT = 64 * 1024 * 1024
_SHOWN = 200


class JsonReader:
    """What decoders of JSON share; `headers` are the answer's."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def _loads(self, data: bytes, when_broken: str) -> Any:
        """The value; raises `InferenceError` of the reason `when_broken`."""
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            shown = data[:_SHOWN].decode(errors="replace")
            message = f"The provider's answer is not valid JSON ({exc}): {shown}"
            raise self._error(when_broken, message) from exc

    def _object(self, data: bytes, when_broken: str) -> dict[str, Any]:
        """The same where nothing but an object will do."""
        return self._checked(self._loads(data, when_broken))

    def _checked(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error("upstream_error", "The provider's answer is not a JSON object.")
        return value

    def _error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason, message, upstream_status=200, upstream_request_id=request_id(self._headers)
        )

    def _nonsense(self, exc: Exception) -> InferenceError:
        return self._error("upstream_error", f"The provider's answer makes no sense: {exc!r}")


class JsonBody(JsonReader):
    """Keeps a body until it has come whole."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Nothing yet: the body is read whole."""
        self._body += data
        if len(self._body) > _BODY_LIMIT:
            raise self._error("upstream_error", "The provider's answer is too large to be one.")
        return ()

    def _whole_value(self, begins: tuple[bytes, ...] = (b"{",)) -> Any:
        """The body as JSON that begins with one of these bytes."""
        # Half of it is a broken connection, anything else is somebody else's page.
        half = self._body.strip()[:1] in (b"", *begins)
        return self._loads(bytes(self._body), "upstream_incomplete" if half else "upstream_error")

    def _whole_object(self) -> dict[str, Any]:
        """The body as one object."""
        return self._checked(self._whole_value())
