"""What callers are told of trouble with the store: what is gone is gone, all else may pass."""

from __future__ import annotations

import pytest

from broker.bus import BusError
from broker.bus.objects import GoneError
from broker.errors import InferenceError
from edge.store import told


@pytest.mark.parametrize(
    ("trouble", "file_id", "status", "said"),
    [
        (GoneError("g"), "file-1", 404, "No such File object: file-1"),
        (GoneError("g"), "", 404, "what was stored is not there any more"),
        (BusError("NATS is away"), "file-1", 503, "retry shortly (NATS is away)"),
    ],
)
def test_who_comes_back_in_vain_is_not_told_to_retry(
    trouble: BusError, file_id: str, status: int, said: str
) -> None:
    with pytest.raises(InferenceError) as caught, told(file_id):
        raise trouble
    assert caught.value.row.http == status
    assert said in caught.value.message
    assert (caught.value.retry_after is None) == (status == 404)
