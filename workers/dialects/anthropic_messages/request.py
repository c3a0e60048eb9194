"""Turns a hub request into the body and headers of a Messages call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.blocks import Block, is_own, text_blocks
from workers.dialects.anthropic_messages.conversation import Conversation, conversation
from workers.dialects.anthropic_messages.envelope import Envelope
from workers.dialects.anthropic_messages.models import family as family_of
from workers.dialects.anthropic_messages.sampling import Circumstances, Judge
from workers.dialects.anthropic_messages.table import TABLE
from workers.dialects.anthropic_messages.tools import Toolbox, toolbox
from workers.headers import goes_on
from workers.parameters import Losses, Row, Table, base_name, settle
from workers.parameters import asked as wanted_of
from workers.standins import read_json

_Generate = generation_pb2.GenerateRequest

# Claude's own parameters, which OpenAI's API lacks, sent on as they are.
_OWN = (
    "billing_policy",
    "cache_control",
    "compaction",
    "container",
    "context_management",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "speed",
    "thread",
    "user_profile_id",
    "workspace_id",
)
# Handled with the parameters they belong to.
_OWN_ELSEWHERE = ("betas", "output_config", "output_format", "thinking", "top_k")
_BETA_OF = {
    "context_management": "context-management-2025-06-27",
    "mcp_servers": "mcp-client-2025-04-04",
}
# Written by code of their own, because they limit each other.
_TOGETHER = (
    *("temperature", "top_p", "max_completion_tokens", "max_tokens", "reasoning_effort", "stop"),
    *("tools", "functions", "function_call", "parallel_tool_calls", "web_search_options"),
    *("user", "safety_identifier", "metadata"),
)
_TOGETHER_KINDS = ("tool_choice", "response_format")
# An id that shows who somebody is: Anthropic's terms want opaque ones.
_PERSONAL = re.compile(r"@|^\+?[\d\s().-]{7,}$")
_NOT_FORWARDED = re.compile(r"x-api-key|api-key|anthropic-(version|beta)|accept.*|content-.*")


@dataclass(frozen=True, slots=True)
class Written:
    """A request, ready to send."""

    body: bytes
    headers: dict[str, str]
    dropped: tuple[str, ...]


def write(
    request: generation_pb2.Request, model: str, envelope: Envelope, table: Table = TABLE
) -> Written:
    """The call for a hub request; `InferenceError` for what cannot be asked of Claude."""
    try:
        return _write(request, model, envelope, table)
    except (orjson.JSONEncodeError, RecursionError) as exc:
        # Only a schema or arguments nested hundreds deep get here.
        message = f"The request cannot be written as JSON: {exc}"
        raise InferenceError("invalid_request", message) from exc


def _write(
    request: generation_pb2.Request, model: str, envelope: Envelope, table: Table
) -> Written:
    asked = request.generate
    losses = Losses()
    body: Block = envelope.begin(model)
    _settle(asked, table.rows(model), body, losses)
    family = family_of(model)
    said = conversation(asked, family, reads_addresses=envelope.reads_addresses)
    box = toolbox(asked, family, losses, said.called_tools, searches=envelope.searches)
    said.system += (block for told in box.instructions for block in text_blocks(told))
    own = _own_parameters(asked, losses)
    body |= _output(own, said, box, Judge(asked, family, losses))
    if said.system:
        body["system"] = said.system
    body["messages"] = said.turns
    if box.tools:
        body["tools"] = box.tools
    if box.choice is not None:
        body["tool_choice"] = box.choice
    body |= _identity(asked, losses)
    elsewhere = {*_OWN_ELSEWHERE, *body}
    body |= {name: value for name, value in own.items() if name not in elsewhere}
    losses.refuse(request.platform, model)
    headers = _headers(request.platform, envelope)
    if betas := _features(request.platform, said.betas | _betas(own), envelope):
        if envelope.betas_in_body:
            body["anthropic_beta"] = betas
        else:
            headers["anthropic-beta"] = ",".join(betas)
    return Written(orjson.dumps(body), headers, losses.names)


def _settle(asked: _Generate, rows: Mapping[str, Row], body: Block, losses: Losses) -> None:
    """Everything that the table says all about."""
    alone = {
        name: value
        for name, value in wanted_of(asked).items()
        if name not in _TOGETHER and base_name(name) not in _TOGETHER_KINDS
    }
    settle(rows, alone, body, losses)


def _own_parameters(asked: _Generate, losses: Losses) -> Block:
    """The fields beyond OpenAI's that Claude knows; the API refuses any other."""
    own: Block = {}
    for name, data in asked.extra.items():
        if is_own(asked) or name in _OWN or name in _OWN_ELSEWHERE:
            own[name] = read_json(data, name)
        else:
            losses.drop(name)
    return own


def _output(own: Block, said: Conversation, box: Toolbox, judge: Judge) -> Block:
    """Everything that shapes the output: limit, thinking, sampling, stop sequences, format."""
    config = dict(_object(own, "output_config"))
    around = Circumstances(
        forced_tool=box.is_forced,
        lost_thinking=said.lost_thinking,
        prefilled=said.is_prefilled,
        thinking=_object(own, "thinking") or None,
        effort=config.get("effort"),
    )
    result, effort = judge.limit_and_thinking(around)
    result |= judge.sampling(result.get("thinking"), own.get("top_k"))
    if effort is not None:
        config["effort"] = effort
    form = _object(own, "output_format") or box.format
    if form:
        config.setdefault("format", form)
    if config:
        result["output_config"] = config
    stops = [stop for stop in judge.request.stop if stop.strip()]
    if stops:
        result["stop_sequences"] = stops
    if len(stops) < len(judge.request.stop):
        judge.losses.drop("stop")  # the API refuses blank ones
    return result


def _object(own: Block, name: str) -> Block:
    value = own.get(name)
    if value is not None and not isinstance(value, dict):
        raise InferenceError("invalid_request", "Must be an object.", param=name)
    return value or {}


def _identity(asked: _Generate, losses: Losses) -> Block:
    """Who asks."""
    result: Block = {}
    for name in ("user", "safety_identifier"):
        value = getattr(asked, name)
        if not value:
            continue
        if "metadata" in result or (_PERSONAL.search(value) and not is_own(asked)):
            losses.drop(name)
        else:
            result["metadata"] = {"user_id": value}
    if "metadata" not in result and "user_id" in asked.metadata:
        result["metadata"] = {"user_id": asked.metadata["user_id"]}
    if asked.metadata.keys() - {"user_id"}:
        losses.drop("metadata")
    return result


def _betas(own: Block) -> set[str]:
    listed = own.get("betas")
    betas = {str(beta) for beta in listed} if isinstance(listed, list) else set()
    return betas | {beta for name, beta in _BETA_OF.items() if name in own}


def _headers(platform: generation_pb2.Platform, envelope: Envelope) -> dict[str, str]:
    headers = {"content-type": "application/json", **envelope.headers}
    for name, value in platform.extra_headers.items():
        lower = name.lower()
        if goes_on(lower) and not _NOT_FORWARDED.fullmatch(lower):
            headers[lower] = value
    return headers


def _features(platform: generation_pb2.Platform, betas: set[str], envelope: Envelope) -> list[str]:
    """The beta features that the caller names, and those that the request needs."""
    headers = {name.lower(): value for name, value in platform.extra_headers.items()}
    listed = headers.get("anthropic-beta", "").split(",")
    asked = [beta.strip() for beta in listed if beta.strip()]
    # A version of a feature that the caller named stands in for ours.
    features = {_feature(beta) for beta in asked}
    features |= envelope.lacks
    return asked + sorted(beta for beta in betas if _feature(beta) not in features)


def _feature(beta: str) -> str:
    return re.sub(r"-\d{4}-\d{2}-\d{2}$", "", beta)
