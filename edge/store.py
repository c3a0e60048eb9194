"""Trouble with what is stored, as what callers are told of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from broker.bus import BusError
from broker.bus.objects import GoneError
from broker.errors import InferenceError
from broker.translate.files import no_file


@contextlib.contextmanager
def told(file_id: str = "") -> Iterator[None]:
    """Inside, NATS is used, for this file if one is named. Raises `InferenceError`.

    What is gone does not come back: that is `not_found`. All else may pass: broker_unavailable.
    """
    try:
        yield
    except GoneError as exc:
        if file_id:
            raise no_file(file_id) from exc
        raise InferenceError("not_found", "what was stored is not there any more") from exc
    except BusError as exc:
        message = f"the store cannot be used; retry shortly ({exc})"
        raise InferenceError("broker_unavailable", message, retry_after=1) from exc
