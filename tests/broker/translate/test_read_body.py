from __future__ import annotations

import pytest

from broker.errors import InferenceError
from broker.translate.body import read_body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "We could not parse the JSON body of your request: it is empty."),
        (b"\xff", "We could not parse the JSON body of your request: "),
        (b"[" * 100_000, "Invalid body: JSON nested too deeply; at most 250 levels."),
    ],
)
def test_a_body_that_cannot_be_read_is_the_callers_fault(body: bytes, message: str) -> None:
    with pytest.raises(InferenceError) as raised:
        read_body(body)
    assert raised.value.reason == "invalid_request"
    assert raised.value.message.startswith(message)
