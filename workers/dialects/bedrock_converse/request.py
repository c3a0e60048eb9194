"""Turns a hub request into the path and body of a Converse call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.bedrock_converse.conversation import (
    Conversation,
    conversation,
    limit_cache_points,
)
from workers.dialects.bedrock_converse.families import Facts, facts_of
from workers.dialects.bedrock_converse.media import Block
from workers.dialects.bedrock_converse.sampling import apply_defaults, fit_sampling, limit_of
from workers.dialects.bedrock_converse.thinking import Wish, thinking_fields
from workers.dialects.bedrock_converse.tools import Toolbox, toolbox
from workers.parameters import Losses, Reasoning, Row, asked, settle
from workers.parameters.settle import put
from workers.parameters.table import Sheet
from workers.provider import Call, Provider
from workers.regions import base_url_for
from workers.standins import read_json

_Generate = generation_pb2.GenerateRequest

_MORE = "additionalModelRequestFields"
# Converse's own fields, which OpenAI's API lacks, sent on as they are.
_OWN = (
    _MORE,
    "additionalModelResponseFieldPaths",
    "guardrailConfig",
    "inferenceConfig",
    "outputConfig",
    "performanceConfig",
    "promptVariables",
    "requestMetadata",
    "serviceTier",
)
# Those that are read or that fields are added to.
_OBJECTS = (_MORE, "inferenceConfig", "outputConfig", "requestMetadata", "thinking")
# Fields of the models behind it, by the names that callers know from their makers.
_MODELS_OWN = (
    "anthropic_beta",
    "output_config",
    "reasoning",
    "reasoningConfig",
    "reasoning_config",
    "thinking",
)
# Source: RequestMetadataValueString of the service model.
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
_MOST_METADATA = 16
_NOT_IN_A_PATH = re.compile(r"[^A-Za-z0-9._~-]")


def call_of(request: generation_pb2.Request, model: str, provider: Provider) -> Call:
    """The call to make; `InferenceError` for what cannot be asked of the model."""
    sheet = provider.parameters.sheet(model)
    writer = _Writer(request.generate, sheet, facts_of(sheet.name))
    try:
        writer.write()
        data = orjson.dumps(writer.body)
    except (orjson.JSONEncodeError, RecursionError) as exc:
        # Only a schema or arguments nested hundreds deep get here.
        message = f"The request cannot be written as JSON: {exc}"
        raise InferenceError("invalid_request", message) from exc
    writer.losses.refuse(request.platform, model)
    operation = "converse-stream" if request.generate.stream else "converse"
    # Ids hold colons, ARNs slashes too; a bare slash is answered with status 200 and an error.
    path = f"/model/{_NOT_IN_A_PATH.sub(_escaped, model)}/{operation}"
    return Call(
        path,
        data,
        {"content-type": "application/json"},
        dropped=writer.losses.names,
        base_url=base_url_for(model, request.platform.region, provider.base_url),
    )


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


@dataclass(slots=True)
class _Writer:
    """Writes one body."""

    request: _Generate
    sheet: Sheet
    facts: Facts
    losses: Losses = field(default_factory=Losses)
    body: Block = field(default_factory=dict)

    def write(self) -> None:
        self._own()
        said = conversation(self.request, self.facts)
        box = toolbox(self.request, self.sheet.rows, self.facts, said, self.losses)
        rest = settle(self._rows(said, box), asked(self.request), self.body, self.losses)
        self._metadata(rest)
        fit_sampling(self.body, self.facts, self.losses)
        apply_defaults(self.body, self.sheet)
        said.system += ({"text": told} for told in box.instructions)
        self._place(said, box)

    def _own(self) -> None:
        """The fields beyond OpenAI's that Converse or its model knows; others are errors there."""
        for name, data in self.request.extra.items():
            if name in _OWN:
                self.body[name] = _value(data, name)
        for name, data in self.request.extra.items():
            if name in _MODELS_OWN:
                put(self.body, f"{_MORE}.{name}", _value(data, name))
            elif name == "top_k" and self.facts.top_k:
                put(self.body, f"{_MORE}.{self.facts.top_k}", read_json(data, name))
            elif name not in _OWN:
                self.losses.drop(name)

    def _rows(self, said: Conversation, box: Toolbox) -> Mapping[str, Row]:
        """The rows for a request that reasons, or does not; writes how Claude thinks."""
        reasoning = self.request.reasoning
        effort = reasoning.effort if reasoning.HasField("effort") else None
        claude = self.facts.claude
        if claude is None or self.sheet.reasoning is Reasoning.NEVER:
            return self.sheet.rows_for(effort)
        more = self.body.get(_MORE, {})
        config = more.get("output_config")
        config = config if isinstance(config, dict) else {}
        most = self.sheet.rows["max_tokens"].high
        verbatim = self.request.surface == generation_pb2.SURFACE_MESSAGES
        wish = Wish(
            effort=None if verbatim else effort,
            thinking=more.pop("thinking", None),
            own_effort=config.get("effort"),
            forbids_budget=box.is_forced or said.lost_thinking or said.is_prefilled,
            limit=limit_of(self.request, self.body, most),
            most=None if most is None else int(most),
            verbatim=verbatim,
        )
        fields = thinking_fields(wish, claude, self.losses)
        if "output_config" in fields:
            fields["output_config"] = config | fields["output_config"]
        if fields:
            self.body.setdefault(_MORE, {}).update(fields)
        thinking = fields.get("thinking")
        kind = thinking.get("type") if isinstance(thinking, dict) else None
        thinks = kind in ("enabled", "adaptive")
        return self.sheet.rows_while_reasoning if thinks else self.sheet.rows

    def _metadata(self, rest: dict[str, Any]) -> None:
        """What goes into the invocation's log: few characters are allowed there."""
        wanted = dict(rest.get("metadata") or {})
        if "user" in rest:
            wanted.setdefault("user", rest["user"])
        kept: dict[str, str] = {}
        for name, value in wanted.items():
            fits = name and _METADATA.fullmatch(name) and _METADATA.fullmatch(value)
            if fits and len(kept) < _MOST_METADATA:
                kept[name] = value
            else:
                self.losses.drop("user" if name == "user" and "user" in rest else "metadata")
        if kept:
            self.body["requestMetadata"] = kept | self.body.get("requestMetadata", {})

    def _place(self, said: Conversation, box: Toolbox) -> None:
        """Writes the conversation, the tools and the form of the answer."""
        limit_cache_points([box.tools, said.system, *(turn["content"] for turn in said.turns)])
        if said.system:
            self.body["system"] = said.system
        self.body["messages"] = said.turns
        if box.tools:
            config: Block = {"tools": box.tools}
            if box.choice is not None:
                config["toolChoice"] = box.choice
            self.body["toolConfig"] = config
        if box.own_choice is not None:
            self.body.setdefault(_MORE, {})["tool_choice"] = box.own_choice
        if box.form is not None:
            self.body["outputConfig"] = box.form | self.body.get("outputConfig", {})


def _value(data: bytes, name: str) -> Any:
    value = read_json(data, name)
    if name in _OBJECTS and not isinstance(value, dict):
        raise InferenceError("invalid_request", "Must be an object.", param=name)
    return value
