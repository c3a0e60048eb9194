"""Shows how a place stands over HTTP and gRPC; pure."""

from __future__ import annotations

from typing import Any

from broker.standing import Standing, said
from broker.v1 import capacity_pb2 as pb


def shown(one: Standing) -> dict[str, Any]:
    """As a batch's progress has it: of all keys together; None = not known, of limits none."""
    return {
        "provider": one.provider,
        "model": one.model,
        "slots": one.slots,
        "requests_per_second": one.rate,
        "tokens_per_second": one.tokens,
        "why": one.why,
        "rest_s": one.rest_s,
        "running": one.running,
        "waiting": one.waiting,
        "rate_limited_last_minute": one.limited_lately,
        "rate_limited": one.limited,
        "said": said(one),
    }


def model_capacity(one: Standing) -> pb.ModelCapacity:
    """As gRPC has it."""
    return pb.ModelCapacity(
        provider=one.provider,
        model=one.model,
        key=one.key,
        slots=one.slots,
        requests_per_second=one.rate,
        tokens_per_second=one.tokens,
        why=one.why,
        rest_s=one.rest_s,
        running=one.running,
        waiting=one.waiting,
        rate_limited_last_minute=one.limited_lately,
        rate_limited=one.limited,
        shares={
            worker: pb.WorkerShare(
                slots=share.slots,
                durable_slots=share.durable,
                requests_per_second=share.rate,
                tokens_per_second=share.tokens,
            )
            for worker, share in one.shares.items()
        },
    )
