"""Says what has to be done around a dialect for one request at one provider."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker import operations
from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.emulation.choices import Choices
from workers.emulation.completions import Prompts, prompts_of
from workers.emulation.split import Split, split
from workers.emulation.steps import Step
from workers.emulation.stop import StopCut
from workers.parameters import Action, left_to_worker
from workers.provider import Draws, Embeds, Provider

_Format = generation_pb2.ResponseFormat
_FORMS = {
    _Format.KIND_JSON_OBJECT: "response_format=json_object",
    _Format.KIND_JSON_SCHEMA: "response_format=json_schema",
}
# As at OpenAI.
_MOST_CALLS = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """How to get the answer; `request` is without what is emulated here."""

    request: generation_pb2.Request
    calls: int = 1
    stops: Sequence[str] = ()
    # Checks the answer against this.
    form: _Format | None = None

    def steps(self) -> list[Step]:
        """Steps for the events of one call."""
        steps: list[Step] = []
        if self.stops:
            steps.append(StopCut(self.request, self.stops))
        if self.form is not None:
            # Loaded when first needed: it takes longer than all the rest of a worker's dialects.
            json_answer: Any = importlib.import_module("workers.emulation.structured").JsonAnswer
            steps.append(json_answer(self.form, streamed=self.request.generate.stream))
        return steps

    def request_of(self, call: int) -> generation_pb2.Request:
        """The request of one of the calls: a seed that is the same would give the same answer."""
        if not call or not self.request.generate.HasField("seed"):
            return self.request
        request = generation_pb2.Request()
        request.CopyFrom(self.request)
        # Some providers take 32 bits.
        request.generate.seed = (request.generate.seed + call) % 2**31
        return request

    def joint(self) -> Choices:
        """What makes one answer of the calls' answers."""
        return Choices(self.calls)

    def again_after(self, _tries: int, _error: InferenceError, _jitter: float) -> float | None:
        """No call is made once more: its answer would be another one."""
        return None


def _pictures(request: generation_pb2.Request, model: str, provider: Provider) -> Plan | None:
    """A call for each picture, where one call cannot give as many."""
    dialect = provider.operations.get(operations.IMAGE)
    most = dialect.most_images(model) if isinstance(dialect, Draws) else request.image.n
    if request.image.n <= most:
        return None
    bare = generation_pb2.Request()
    bare.CopyFrom(request)
    bare.image.ClearField("n")
    return Plan(bare, request.image.n)


def plan_of(
    request: generation_pb2.Request, model: str, provider: Provider
) -> Plan | Split | Prompts | None:
    """The plan for a request; None where the dialect does all of it.

    Raises `InferenceError` for more answers than can be asked for.
    """
    if request.HasField("embed"):
        dialect = provider.operations.get(operations.EMBED)
        return split(request, dialect.most(model)) if isinstance(dialect, Embeds) else None
    if request.HasField("image"):
        return _pictures(request, model, provider)
    if request.HasField("complete"):
        return prompts_of(request, model, provider, plan_of)
    generate = request.generate
    if generate.n < 2 and not generate.stop and not generate.HasField("response_format"):
        return None
    effort = generate.reasoning.effort if generate.reasoning.HasField("effort") else None
    rows = provider.parameters.rows(model, effort)
    left = left_to_worker(rows, {"n": generate.n or 1, "stop": list(generate.stop)})
    column = _FORMS.get(generate.response_format.kind)
    row = rows.get(column) if column else None
    form = row is not None and (row.action is Action.EMULATE or row.checked)
    calls = generate.n if "n" in left else 1
    stops = list(generate.stop) if "stop" in left else []
    if calls > _MOST_CALLS:
        raise InferenceError("invalid_request", f"n is at most {_MOST_CALLS}", param="n")
    if calls == 1 and not stops and not form:
        return None
    bare = generation_pb2.Request()
    bare.CopyFrom(request)
    for name in left:
        bare.generate.ClearField(name)  # type: ignore[arg-type]
    return Plan(bare, calls, stops, generate.response_format if form else None)
