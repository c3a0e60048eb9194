"""Lines of batches: what each endpoint reads, and how a line's answer or error is its result.

A line is a request that nobody waits for. It is answered whole, and is by itself: it streams
nothing, is kept nowhere else and goes on from nothing that is kept.
"""

from __future__ import annotations

import hashlib

import msgspec

from broker import operations
from broker.batch.lines import BOM
from broker.errors import InferenceError
from broker.translate import forms
from broker.translate.answer_ids import prefix
from broker.translate.form import Answer, Form
from broker.translate.refusals import invalid
from broker.translate.responses_messages import reference_of
from broker.translate.responses_request import as_responses
from broker.v1 import batch_pb2, generation_pb2

# What the lines of a batch may ask for, and what their requests are.
OPERATIONS: dict[str, str] = {
    "/v1/responses": operations.GENERATE,
    "/v1/chat/completions": operations.GENERATE,
    "/v1/embeddings": operations.EMBED,
    "/v1/completions": operations.COMPLETE,
    "/v1/moderations": operations.MODERATE,
    "/v1/images/generations": operations.IMAGE,
    "/v1/images/edits": operations.IMAGE,
}
FORMS: dict[str, Form] = {path: (forms.ROUTES | forms.KEPT)[path] for path in OPERATIONS}
# The code of a line whose call took too long: it has no HTTP status.
REQUEST_TIMEOUT = "request_timeout"

_ID_BYTES = 16


class _Logged(msgspec.Struct):
    """Whether a line's body may be kept beside its result."""

    log_query_body: bool | None = None


class _Line(msgspec.Struct):
    """A line of the input, as far as a worker needs it."""

    body: msgspec.Raw


def body_of(line: bytes) -> bytes:
    """The body of a whole line of the input. Raises `InferenceError`."""
    try:
        return bytes(_decode_line(line.removeprefix(BOM)).body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InferenceError("invalid_request", f"the line cannot be read: {exc}") from exc


def read(endpoint: str, body: bytes) -> generation_pb2.Request:
    """The hub request of a line's body. Raises `InferenceError`."""
    form = FORMS.get(endpoint)
    if form is None:
        raise invalid("url", f"Batches have no endpoint {endpoint!r}.")
    request = form.parse(body)
    if operations.streams(request):
        raise _alone("stream", "a line of a batch is answered whole")
    if request.platform.use_custom_keys:
        raise _alone("use_custom_keys", "batches run with the operator's provider keys")
    if request.generate.surface == generation_pb2.SURFACE_RESPONSES:
        _refuse_kept(request.generate)
    return request


def _refuse_kept(generate: generation_pb2.GenerateRequest) -> None:
    """Refuse what a response goes on from."""
    options = generate.responses
    for name in ("background", "previous_response_id", "conversation"):
        if getattr(options, name):
            raise _alone(name, "a line of a batch is a request by itself")
    if any(reference_of(message) for message in generate.messages):
        raise _alone("input", "a line of a batch cannot refer to items that are kept")
    generate.store = False


def _alone(param: str, why: str) -> InferenceError:
    return invalid(param, f"'{param}' is not supported in batches: {why}.", "unsupported_parameter")


def answer(endpoint: str, line_id: str, created: int, request: generation_pb2.Request) -> Answer:
    """What collects the answer to a line: its id follows from the line's."""
    digest = hashlib.blake2b(line_id.encode(), digest_size=_ID_BYTES).hexdigest()
    return FORMS[endpoint].answer(prefix(request) + digest, created, request)


def rendered(answer: Answer) -> bytes:
    """The body of an answer that is complete."""
    body = answer.render()
    return body if isinstance(body, bytes) else b"".join(body)


def fail(result: batch_pb2.LineResult, endpoint: str, error: InferenceError) -> None:
    """Make `error` what became of a line: a status and a body, but for a call that timed out."""
    if error.reason == "deadline":
        result.error.CopyFrom(batch_pb2.BatchError(code=REQUEST_TIMEOUT, message=error.message))
        return
    if endpoint == "/v1/responses":
        error = as_responses(error)
    form = FORMS.get(endpoint, forms.CHAT)
    result.status = form.status(error)
    result.json = form.error(error, result.request_id)


def loggable(body: bytes) -> bool:
    """Whether a body may be kept in logs and dead letters; what cannot be read may not."""
    try:
        return _decode_logged(body).log_query_body is not False
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


_decode_logged = msgspec.json.Decoder(_Logged).decode
_decode_line = msgspec.json.Decoder(_Line).decode
