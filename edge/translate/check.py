"""Checks a hub request that did not come through a front end's parser: typed calls over gRPC.

The same limits as over HTTP, with the same field paths, before anything is queued.
"""

from __future__ import annotations

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

# Field -> lowest and highest value. Source: the OpenAI API's own limits.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
    "n": (1, 128),
    "max_tokens": (1, 2**53),
    "max_output_tokens": (1, 2**53),
}
_MAX_STOP = 4
_MAX_TOOLS = 128


def check(request: generation_pb2.Request) -> None:
    """Raises invalid_request with `param` when a limit is broken."""
    if request.WhichOneof("operation") is None:
        raise _invalid("request", "the request names no operation; set `generate`")
    generate = request.generate
    if not generate.model:
        raise _invalid("model", "name a model, such as `provider/model`")
    if not generate.messages:
        raise _invalid("messages", "at least one message is needed")
    for name, (low, high) in _RANGES.items():
        if generate.HasField(name) and not low <= getattr(generate, name) <= high:  # type: ignore[arg-type]
            raise _invalid(name, f"{name} has to be from {low} to {high}")
    for bias in generate.logit_bias.values():
        if not -100 <= bias <= 100:
            raise _invalid("logit_bias", "values of logit_bias have to be from -100 to 100")
    if len(generate.stop) > _MAX_STOP:
        raise _invalid("stop", f"at most {_MAX_STOP} stop sequences are possible")
    if len(generate.tools) > _MAX_TOOLS:
        raise _invalid("tools", f"at most {_MAX_TOOLS} tools are possible")
    if generate.HasField("top_logprobs") and not generate.logprobs:
        raise _invalid("top_logprobs", "top_logprobs needs logprobs to be true")
    for index, message in enumerate(generate.messages):
        if message.role not in _ROLES:
            raise _invalid(f"messages[{index}].role", "the role is not known")


_ROLES = frozenset(content_pb2.Role.values()) - {content_pb2.ROLE_UNSPECIFIED}


def _invalid(param: str, message: str) -> InferenceError:
    return InferenceError("invalid_request", message, param=param)
