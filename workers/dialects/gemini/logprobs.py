"""Turns Gemini's log probabilities into OpenAI's."""

from __future__ import annotations

from typing import Any

import orjson


def logprobs_of(result: Any) -> bytes:
    """A JSON array of OpenAI's token entries; empty for a candidate without log probabilities."""
    if not isinstance(result, dict):
        return b""
    tops = result.get("topCandidates") or []
    entries = []
    for number, chosen in enumerate(result.get("chosenCandidates") or ()):
        others = tops[number].get("candidates") if number < len(tops) else None
        top = [_entry(candidate) for candidate in others or ()]
        entries.append(_entry(chosen) | {"top_logprobs": top})
    return orjson.dumps(entries) if entries else b""


def _entry(candidate: dict[str, Any]) -> dict[str, Any]:
    token = candidate.get("token") or ""
    return {
        "token": token,
        # Proto JSON leaves a zero out.
        "logprob": candidate.get("logProbability") or 0.0,
        "bytes": list(token.encode()),
    }
