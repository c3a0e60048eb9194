"""Ids of the items of a response: derived, so that what is rendered again has the same ones."""

from __future__ import annotations

import hashlib

# What the id of an item begins with, by its type.
_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "image_generation_call": "ig_",
}
_BYTES = 24


def item_id(owner: str, position: int | str, kind: str) -> str:
    """The id of the item of type `kind` at a position of a response (or conversation).

    Input items have positions of their own, such as `in0`.
    """
    digest = hashlib.blake2b(f"{owner}:{position}".encode(), digest_size=_BYTES)
    return _PREFIXES.get(kind, "item_") + digest.hexdigest()
