"""How a request was routed, as OpenRouter tells it on request: `openrouter_metadata`; pure.

Beside the fields of OpenRouter: `endpoints.excluded`, with reasons, and `reason` of an attempt.
Source: its page on router metadata.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.dispatch import Plan
from broker.routing import Decision
from broker.routing.candidates import Candidate
from broker.v1 import generation_pb2

FIELD = b"openrouter_metadata"
# Names of the request header; the second one is from before it was stable.
HEADERS = (b"x-openrouter-metadata", b"x-openrouter-experimental-metadata")
_WANTED = b"enabled"
_json = msgspec.json.Encoder().encode


def wanted(headers: dict[bytes, bytes]) -> bool:
    """Whether the caller asks for it."""
    return any(headers.get(name, b"").lower() == _WANTED for name in HEADERS)


def ask(request: generation_pb2.Request) -> None:
    """Have the answer tell it; a stream does so in its usage chunk, which is then sent."""
    request.platform.tell_routing = True
    if request.HasField("complete"):
        request.complete.include_usage = True
    elif request.generate.surface == generation_pb2.SURFACE_CHAT and request.generate.stream:
        request.generate.stream_options.include_usage = True


def metadata(decision: Decision, plan: Plan, attempt: int, *, route: str, byok: bool) -> bytes:
    """The object, of a request whose attempt of this number answered."""
    target = plan.target
    chosen, out = (*decision.chosen, *decision.spare), decision.left_out
    answered = next((one for one in chosen if one.target == target), chosen[0])
    tried = [
        {
            "provider": error.provider,
            "model": error.model,
            "status": error.upstream_status or error.row.http,
            "reason": error.reason,
        }
        for error in plan.errors
    ]
    tried.append({"provider": target.provider, "model": target.model, "status": 200})
    by = route or decision.strategy
    return _json(
        {
            "requested": decision.requested,
            "strategy": _strategy(decision, answered),
            "region": None,
            "summary": f"available={len(chosen)}, selected={target.provider}; {by}",
            "attempt": attempt,
            "is_byok": byok,
            "endpoints": {
                "total": len(chosen) + len(out),
                "available": [{**_named(one), "selected": one.target == target} for one in chosen],
                "excluded": [{**_named(one), "reason": one.excluded} for one in out],
            },
            "attempts": tried,
        }
    )


def in_body(body: bytes, metadata: bytes) -> bytes:
    """A whole answer, a JSON object, with the metadata as its last field."""
    return b'%b,"%b":%b}' % (body.rstrip()[:-1], FIELD, metadata)


def in_events(events: bytes, metadata: bytes) -> bytes:
    """The end of a stream with the metadata in its last event that is a JSON object."""
    begin = events.rfind(b"data: {")
    end = events.find(b"\n", begin)
    if begin < 0 or end < 0:
        return events
    return events[:begin] + in_body(events[begin:end], metadata) + events[end:]


def _named(candidate: Candidate) -> dict[str, Any]:
    return {"provider": candidate.provider, "model": candidate.target.model}


def _strategy(decision: Decision, answered: Candidate) -> str:
    """OpenRouter's word."""
    if answered.rank:
        return "fallback"
    return "direct" if answered.wish.model in decision.requested else "alias"
