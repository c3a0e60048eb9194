"""`POST /v0/route`: where a chat completion would go and why, without asking anybody."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from broker.config import Limits
from broker.routing import Decision
from broker.routing.candidates import Candidate
from broker.routing.residency import Claim
from broker.translate.chat_request import parse_chat
from edge.auth import Authenticator
from edge.http.routes import json_body, signed_in
from edge.seams import EngineLike

# A body may leave the conversation out: names and preferences are enough to decide by.
_MOST_BYTES = 1 << 20


def route_routes(engine: EngineLike, auth: Authenticator, limits: Limits) -> APIRouter:
    """The one route; its body is that of a chat completion."""
    router = APIRouter(prefix="/v0", tags=["v0"], dependencies=signed_in(auth))
    body = json_body(limits, _MOST_BYTES)

    @router.post("/route", summary="Explain where a request would go")
    async def route(request: Request) -> dict[str, Any]:
        """Takes the body of a chat completion and answers with the decision alone."""
        return shown(await engine.decide(parse_chat(await body(request))))

    return router


def shown(decision: Decision) -> dict[str, Any]:
    """A decision as JSON: who is tried in order, and who is not, with the reason."""
    return {
        "object": "route",
        "requested": decision.requested,
        "strategy": decision.strategy,
        "candidates": [_shown(candidate) for candidate in decision.chosen],
        "context_fallbacks": [_shown(candidate) for candidate in decision.spare],
        "left_out": [_shown(c) | {"reason": c.excluded} for c in decision.left_out],
    }


def _shown(candidate: Candidate) -> dict[str, Any]:
    """Prices in USD per million tokens, times in milliseconds; null = not known."""
    live, claim = candidate.live, candidate.claim
    return {
        "provider": candidate.provider,
        "model": candidate.target.model,
        "pool": candidate.target.pool,
        "weight": candidate.weight,
        "input_price": candidate.usd("input_tokens"),
        "output_price": candidate.usd("output_tokens"),
        "max_input_tokens": candidate.target.window or None,
        "first_token_ms": live.first_ms or None,
        "tokens_per_s": live.per_second or None,
        "in_flight": live.busy,
        "slots": live.slots or None,
        "resting": live.resting,
        "compliance": None if claim is None else _claimed(claim),
    }


def _claimed(claim: Claim) -> dict[str, Any]:
    """Where it is compliant, and who says so."""
    return {"regions": sorted(claim.regions), "source": claim.source, "date": claim.date or None}
