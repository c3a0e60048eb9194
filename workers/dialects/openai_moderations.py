"""Moderations in OpenAI's format, with the categories that each provider has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.counts import count
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

_HEADERS = {"content-type": "application/json"}
_KNOWN = {"flagged", "categories", "category_scores", "category_applied_input_types"}


@dataclass(frozen=True, slots=True)
class OpenAiModerations:
    """The dialect; it has no state."""

    # Reads an error answer: status, headers, body.
    errors: Callable[[int, Mapping[str, str], bytes], InferenceError]
    # Whether pictures are understood, and parts of one thing; texts alone become one text.
    parts: bool = True

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request.

        Raises `InferenceError` for pictures where they are not understood.
        """
        moderate = request.moderate
        if moderate.together and not self.parts:
            given: Any = _one_text(moderate, provider.name)
        else:
            given = _input(moderate)
        body: dict[str, Any] = {"model": model, "input": given}
        for name, data in moderate.extra.items():
            body.setdefault(name, orjson.Fragment(data))
        return Call("/moderations", orjson.dumps(body), _HEADERS)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        wanted = 1 if request.moderate.together else len(request.moderate.inputs)

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            if not isinstance(answer.get("results"), list):
                raise self.errors(502, headers, orjson.dumps(answer))
            results = answer["results"]
            if len(results) != wanted:
                raise ValueError(f"{len(results)} judgements for {wanted} inputs")
            started = event_pb2.Started(
                model=str(answer.get("model") or ""), upstream_id=str(answer.get("id") or "")
            )
            events = [
                event_pb2.Event(moderation=_judged(index, result))
                for index, result in enumerate(results)
            ]
            used = (answer.get("usage") or {}).get("prompt_tokens")
            return started, events, event_pb2.Usage(input_tokens=count(used) or 0)

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _input(moderate: operations_pb2.ModerateRequest) -> Any:
    if not moderate.together:
        texts = [given.text for given in moderate.inputs]
        return texts if len(texts) > 1 else texts[0]
    parts: list[dict[str, Any]] = []
    for given in moderate.inputs:
        if given.HasField("text"):
            parts.append({"type": "text", "text": given.text})
        if given.HasField("image_url"):
            parts.append({"type": "image_url", "image_url": {"url": given.image_url}})
    return parts


def _one_text(moderate: operations_pb2.ModerateRequest, provider: str) -> str:
    for number, given in enumerate(moderate.inputs):
        if given.HasField("image_url"):
            raise InferenceError(
                "unsupported_parameter",
                f"{provider} judges texts alone, no pictures",
                param=f"input[{number}]",
                provider=provider,
            )
    return "\n".join(given.text for given in moderate.inputs)


def _judged(index: int, result: dict[str, Any]) -> operations_pb2.Moderation:
    """One judgement. A category that is null was not looked for, and is left out."""
    categories = {name: bool(v) for name, v in result["categories"].items() if v is not None}
    judged = operations_pb2.Moderation(
        index=index,
        # Not every provider sums it up.
        flagged=bool(result.get("flagged", any(categories.values()))),
        categories=categories,
    )
    for name, score in (result.get("category_scores") or {}).items():
        if score is not None:
            judged.scores[name] = float(score)
    for name, types in (result.get("category_applied_input_types") or {}).items():
        judged.applied[name].types.extend(types or ())
    for name in result.keys() - _KNOWN:
        judged.extra[name] = orjson.dumps(result[name])
    return judged
