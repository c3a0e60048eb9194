"""Carries a provider's state of its reasoning in the one field that the Responses API has for it.

`encrypted_content` of a reasoning item that we render is `mlr1.` and base64 of the hub's blobs, so
that whichever dialect issued them gets them back. Any other text is what another server of this
API issued: it is a blob of that dialect, beside the id of the item, which it is bound to.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from google.protobuf.message import DecodeError

from broker.items import RESPONSES
from broker.translate.refusals import invalid
from broker.v1 import content_pb2

_OURS = "mlr1."


def seal(reasoning: content_pb2.Reasoning) -> str:
    """The field's text for the blobs of a reasoning part; "" when it has none."""
    if not reasoning.blobs:
        return ""
    blobs = content_pb2.Reasoning(blobs=reasoning.blobs)
    data = blobs.SerializeToString(deterministic=True)
    return _OURS + urlsafe_b64encode(data).decode().rstrip("=")


def unseal(text: str, item_id: str, reasoning: content_pb2.Reasoning, param: str) -> None:
    """Add the blobs that the field's text stands for.

    Raises:
        InferenceError: it was ours and is damaged.
    """
    if not text.startswith(_OURS):
        if item_id:
            reasoning.blobs.add(issuer=RESPONSES, kind="item_id", data=item_id.encode())
        reasoning.blobs.add(issuer=RESPONSES, kind="encrypted_content", data=text.encode())
        return
    data = text[len(_OURS) :]
    try:
        raw = urlsafe_b64decode(data + "=" * (-len(data) % 4))
        reasoning.blobs.extend(content_pb2.Reasoning.FromString(raw).blobs)
    except (binascii.Error, ValueError, DecodeError) as exc:
        message = f"Invalid '{param}': it is not what an earlier answer had there."
        raise invalid(param, message, "invalid_encrypted_content") from exc
