"""Turns a hub request into the path, body and headers of a generateContent call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.gemini.conversation import conversation
from workers.dialects.gemini.models import Family
from workers.dialects.gemini.models import family as family_of
from workers.dialects.gemini.names import ToolNames
from workers.dialects.gemini.output import modalities, speech
from workers.dialects.gemini.surroundings import Surroundings
from workers.dialects.gemini.thinking import thinking_config
from workers.dialects.gemini.tools import toolbox
from workers.locations import base_url_for, located
from workers.parameters import Losses, asked, settle
from workers.provider import Call, Provider
from workers.standins import read_json

_Generate = generation_pb2.GenerateRequest

# Gemini's own fields, which OpenAI's API lacks, sent on as they are; in either spelling.
_FIELDS = frozenset({"cachedContent", "continuationToken", "safetySettings"})
_CONFIG_FIELDS = frozenset(
    {
        "audioTranscriptionConfig",
        "enableAffectiveDialog",
        "imageConfig",
        "mediaResolution",
        "responseJsonSchema",
        "responseMimeType",
        "responseModalities",
        "responseSchema",
        "speechConfig",
        "thinkingConfig",
        "topK",
        "translationConfig",
    }
)
# Objects that the caller's are merged into.
_MERGED = frozenset({"generationConfig", "toolConfig"})
# The place of these in Google's own OpenAI format.
_GOOGLES_PLACE = "google"
_MOST_ANSWERS = 8
_MOST_LOGPROBS = 20
_UNDERSCORE = re.compile(r"_([a-z])")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TIERS = {"auto": "", "default": "", "flex": "flex", "priority": "priority"}

Body = dict[str, Any]


def write(
    request: generation_pb2.Request, model: str, provider: Provider, home: Surroundings
) -> Call:
    """The call for a hub request; `InferenceError` for what cannot be asked of Gemini."""
    try:
        return _write(request, model, provider, home)
    except (orjson.JSONEncodeError, RecursionError) as exc:
        # Only a schema or arguments nested hundreds deep get here.
        message = f"The request cannot be written as JSON: {exc}"
        raise InferenceError("invalid_request", message) from exc


def _write(
    request: generation_pb2.Request, model: str, provider: Provider, home: Surroundings
) -> Call:
    generate = request.generate
    family, names, losses = family_of(model), ToolNames(generate), Losses()
    said = conversation(generate, family, home, names)
    box = toolbox(generate, family, names, losses)
    body: Body = {}
    if said.system:
        body["systemInstruction"] = {"parts": said.system}
    body["contents"] = said.contents
    if box.tools:
        body["tools"] = box.tools
    if box.config:
        body["toolConfig"] = box.config
    if box.functions and box.hosted and home.announces_hosted:
        body.setdefault("toolConfig", {})["includeServerSideToolInvocations"] = True
    config: Body = dict(box.form)
    _add_own_fields(generate, body, config, home, losses)
    body["generationConfig"] = config
    rows = provider.parameters.rows(model, generate.reasoning.effort or None)
    rest = settle(rows, asked(generate), body, losses)
    writing = _Writing(generate, family, home, config, body, losses)
    for name, write_it in _WRITERS.items():
        if name in rest:
            write_it(writing, rest[name])
    if not config:
        del body["generationConfig"]
    losses.refuse(request.platform, model)
    # Several answers cannot be streamed: the decoder takes them as they come.
    streams = generate.stream and generate.n <= 1
    method = "streamGenerateContent?alt=sse" if streams else "generateContent"
    there = located(provider, model, request.platform.region)
    return Call(
        home.path(model, method, there),
        orjson.dumps(body),
        {"content-type": "application/json", **writing.headers},
        dropped=losses.names,
        base_url=base_url_for(there, provider),
    )


def _add_own_fields(
    generate: _Generate, body: Body, config: Body, home: Surroundings, losses: Losses
) -> None:
    """The fields beyond OpenAI's that Gemini knows; the API refuses any other."""
    given = {name: read_json(data, name) for name, data in generate.extra.items()}
    if isinstance(google := given.get(_GOOGLES_PLACE), dict):
        del given[_GOOGLES_PLACE]
        given |= google
    for name, value in given.items():
        field_name = _UNDERSCORE.sub(lambda found: found[1].upper(), name)
        if field_name in _FIELDS or field_name in home.fields:
            body[field_name] = value
        elif field_name in _CONFIG_FIELDS or field_name in home.config_fields:
            config[field_name] = value
        elif field_name in _MERGED and isinstance(value, dict):
            owner = config if field_name == "generationConfig" else body.setdefault(field_name, {})
            owner.update(value)
        else:
            losses.drop(name)


@dataclass(slots=True)
class _Writing:
    """What the parameters that need code are written into."""

    generate: _Generate
    family: Family
    home: Surroundings
    config: Body
    body: Body
    losses: Losses
    headers: dict[str, str] = field(default_factory=dict)

    def answers(self, wanted: int) -> None:
        if wanted > _MOST_ANSWERS:
            message = f"Gemini gives up to {_MOST_ANSWERS} answers per request."
            raise InferenceError("unsupported_parameter", message, param="n")
        if wanted > 1:
            self.config["candidateCount"] = wanted

    def logprobs(self, wanted: bool) -> None:
        if wanted:
            self.config["responseLogprobs"] = True

    def top_logprobs(self, wanted: int) -> None:
        if wanted:
            self.config["logprobs"] = min(wanted, _MOST_LOGPROBS)

    def effort(self, wanted: str) -> None:
        limit = self.config.get("maxOutputTokens")
        config = thinking_config(wanted, self.family, limit)
        if config is None:
            self.losses.drop("reasoning_effort")
        else:
            self.config.setdefault("thinkingConfig", config)

    def modalities(self, wanted: list[str]) -> None:
        self.config.setdefault("responseModalities", modalities(wanted))

    def audio(self, wanted: generation_pb2.AudioOptions) -> None:
        self.config.setdefault("speechConfig", speech(wanted))

    def tier(self, wanted: str) -> None:
        word = _TIERS.get(wanted)
        if word is None:
            self.losses.drop("service_tier")
        elif word:
            self.headers[self.home.tier_header] = word

    def labels(self, wanted: Mapping[str, str]) -> None:
        """Labels are for bills: what they cannot hold is left out."""
        fitting = {
            name: value
            for name, value in wanted.items()
            if _LABEL_KEY.fullmatch(name) and _LABEL.fullmatch(value)
        }
        if len(fitting) < len(wanted):
            self.losses.drop("metadata")
        if fitting:
            self.body["labels"] = fitting | self.body.get("labels", {})


# `tools` and what belongs to them, and the messages, are written before; the rest is in the path.
_WRITERS: dict[str, Callable[[_Writing, Any], None]] = {
    "n": _Writing.answers,
    "logprobs": _Writing.logprobs,
    "top_logprobs": _Writing.top_logprobs,
    "reasoning_effort": _Writing.effort,
    "modalities": _Writing.modalities,
    "audio": _Writing.audio,
    "service_tier": _Writing.tier,
    "metadata": _Writing.labels,
}
