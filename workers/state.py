"""Leaves out of a request what another provider alone can read: its state of reasoning; pure.

A dialect is spoken by several providers, and each encrypts with keys of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.v1 import content_pb2, generation_pb2

# Anthropic: signatures are the same on its own API, Bedrock and Vertex AI.
_ANYWHERE = frozenset({"anthropic_messages"})


def own_state(request: generation_pb2.Request, provider: str) -> generation_pb2.Request:
    """The request with no state but this provider's, and such as nobody knows the issuer of."""
    if not any(_foreign(blob, provider) for _, blob in _blobs(request)):
        return request
    bare = generation_pb2.Request()
    bare.CopyFrom(request)
    for reasoning, blob in list(_blobs(bare)):
        if _foreign(blob, provider):
            reasoning.blobs.remove(blob)
    return bare


def _foreign(blob: content_pb2.Blob, provider: str) -> bool:
    return blob.provider not in ("", provider) and blob.issuer not in _ANYWHERE


def _blobs(
    request: generation_pb2.Request,
) -> Iterator[tuple[content_pb2.Reasoning, content_pb2.Blob]]:
    for message in request.generate.messages:
        if message.role == content_pb2.ROLE_ASSISTANT:
            for part in message.parts:
                if part.HasField("reasoning"):
                    for blob in part.reasoning.blobs:
                        yield part.reasoning, blob
