"""One line of a batch's input: what it says, and what is wrong with it; pure.

One typed pass for lines that are right; why another one is wrong is found out apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from broker.v1 import batch_pb2

BOM = b"\xef\xbb\xbf"
# What OpenAI's API takes in a batch: requests, bytes, and texts of which vectors are asked.
MAX_TASKS = 50_000
MAX_INPUT = 200 << 20
MAX_INPUTS = 50_000
EMBEDDINGS = "/v1/embeddings"
# Longer than any body that is taken: such a line is not read on.
MAX_LINE = 32 << 20
# Of ids and prompts: with 128 bits two of a million lines are never alike by chance.
DIGEST = 16
_METHOD = "POST"
# Characters; both stand in messages that have a limit of their own.
MAX_CUSTOM_ID = 512
MAX_MODEL = 256


class Line(msgspec.Struct):
    """A line as its author wrote it; `body` is JSON."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Head(msgspec.Struct):
    """Of a line's body what decides where it goes; the last four are routing fields."""

    model: str
    models: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    provider: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    extra_body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def plain(self) -> bool:
        """Whether the model alone decides."""
        unset = msgspec.UNSET
        return (
            self.models is unset
            and self.provider is unset
            and self.extra_body is unset
            and self.region is unset
        )


class _CustomId(msgspec.Struct):
    custom_id: str = ""


class _Inputs(msgspec.Struct):
    """What vectors are asked of: a text, or a list of texts, of tokens or of lists of tokens."""

    input: msgspec.Raw = msgspec.Raw(b"")


class _Prompt(msgspec.Struct):
    """The part of a body that providers' caches look at first."""

    instructions: msgspec.Raw = msgspec.Raw(b"")
    messages: list[msgspec.Raw] = []


class _Prompted(msgspec.Struct):
    body: _Prompt


decode_line = msgspec.json.Decoder(Line).decode
decode_head = msgspec.json.Decoder(Head).decode
_decode_id = msgspec.json.Decoder(_CustomId).decode
_decode_prompted = msgspec.json.Decoder(_Prompted).decode
_decode_inputs = msgspec.json.Decoder(_Inputs).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class InvalidLineError(Exception):
    """A line that cannot be run; the mistakes are its arguments."""

    def __init__(self, mistakes: list[batch_pb2.BatchError]) -> None:
        super().__init__(*(mistake.message for mistake in mistakes))
        self.mistakes = mistakes


def check(line: bytes, number: int, endpoint: str) -> tuple[Line, str]:
    """A line that is not blank, and its model. Raises `InvalidLineError`."""
    if number == 1:
        line = line.removeprefix(BOM)
    try:
        read = decode_line(line)
        head = decode_head(read.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidLineError(_mistakes(line, number, endpoint)) from None
    named = 0 < len(read.custom_id) <= MAX_CUSTOM_ID and 0 < len(head.model) <= MAX_MODEL
    if read.url != endpoint or read.method != _METHOD or not named:
        raise InvalidLineError(_mistakes(line, number, endpoint))
    return read, head.model


def read(line: bytes) -> tuple[Line, Head]:
    """A line that was found valid."""
    found = decode_line(line.removeprefix(BOM))
    return found, decode_head(found.body)


def custom_id(line: bytes) -> str:
    """A valid line's `custom_id`."""
    return _decode_id(line.removeprefix(BOM)).custom_id


def id_digest(custom_id: str) -> bytes:
    """Equal for equal ids."""
    return blake2b(custom_id.encode(), digest_size=DIGEST).digest()


def body_digest(body: bytes) -> bytes:
    """Equal for bodies that ask the same, whatever the order of their fields."""
    # Numbers beyond all bounds and the like: alike is what has the same bytes.
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
        body = _encode_sorted(_decode_any(body))
    return blake2b(body, digest_size=DIGEST).digest()


def inputs(body: bytes) -> int:
    """Of how many texts a valid line asks vectors; 0 where that cannot be told."""
    given = bytes(_decode_inputs(body).input)
    if not given.startswith(b"["):
        return int(given.startswith(b'"'))
    several = _decode_list(given)
    # A list of numbers is the tokens of one text.
    return len(several) if several and bytes(several[0])[:1] in b'["' else min(len(several), 1)


def prompt_prefix(line: bytes) -> bytes:
    """What the prompt of a valid line begins with: a request goes beside those that share it."""
    try:
        prompt = _decode_prompted(line.removeprefix(BOM)).body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    return bytes(prompt.instructions) + b"".join(map(bytes, prompt.messages[:1]))


def _mistakes(line: bytes, number: int, endpoint: str) -> list[batch_pb2.BatchError]:
    """Everything that is wrong with a line."""
    try:
        source = _decode_any(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        source = None
    if not isinstance(source, dict):
        return [_invalid_json(number)]
    found = [mistake for mistake in _of_fields(source, endpoint) if mistake is not None]
    for mistake in found:
        mistake.line = number
    return found or [_invalid_json(number)]


def _of_fields(source: dict[str, Any], endpoint: str) -> Iterable[batch_pb2.BatchError | None]:
    yield _text(source, "custom_id", longest=MAX_CUSTOM_ID)
    yield _text(source, "method") or _other_method(source["method"])
    yield _text(source, "url") or _other_url(source["url"], endpoint)
    body = source.get("body")
    if body is None:
        yield _missing("body")
    elif not isinstance(body, dict):
        yield _wrong("body", "an object")
    else:
        yield _text(body, "model", "body.model", longest=MAX_MODEL)


def _text(
    source: dict[str, Any], name: str, path: str = "", *, longest: int = 0
) -> batch_pb2.BatchError | None:
    value = source.get(name)
    if value is None or value == "":
        return _missing(path or name)
    if not isinstance(value, str):
        return _wrong(path or name, "a string")
    return _above(path or name, len(value), longest) if 0 < longest < len(value) else None


def _other_method(method: str) -> batch_pb2.BatchError | None:
    if method == _METHOD:
        return None
    message = f"Invalid method {_clip(method)}: only {_METHOD} is supported."
    return batch_pb2.BatchError(code="invalid_method", message=message, param="method")


def _other_url(url: str, endpoint: str) -> batch_pb2.BatchError | None:
    if url == endpoint:
        return None
    message = f"The url {_clip(url)} of this request is not the batch's endpoint {endpoint}."
    return batch_pb2.BatchError(code="url_mismatch", message=message, param="url")


def _missing(path: str) -> batch_pb2.BatchError:
    message = f"Missing required parameter: '{path}'."
    return batch_pb2.BatchError(code="missing_required_parameter", message=message, param=path)


def _wrong(path: str, expected: str) -> batch_pb2.BatchError:
    message = f"Invalid type for '{path}': expected {expected}."
    return batch_pb2.BatchError(code="invalid_type", message=message, param=path)


def _above(path: str, length: int, longest: int) -> batch_pb2.BatchError:
    message = (
        f"Invalid '{path}': string too long. Expected a string with maximum length {longest}, but "
        f"got a string with length {length} instead."
    )
    return batch_pb2.BatchError(code="string_above_max_length", message=message, param=path)


def _invalid_json(number: int) -> batch_pb2.BatchError:
    message = "This line is not parseable as valid JSON."
    return batch_pb2.BatchError(code="invalid_json_line", message=message, line=number)


def other_model(model: str, first: str, number: int) -> batch_pb2.BatchError:
    """The mistake of a line that asks another model than the first one does."""
    message = (
        f"The model {_clip(model)} of this request is not {_clip(first)}, which the first request "
        "of the file asks: use one model per file, or set mixed_models."
    )
    return batch_pb2.BatchError(
        code="model_mismatch", message=message, param="body.model", line=number
    )


def duplicate_id(number: int, first: int) -> batch_pb2.BatchError:
    """The mistake of a line whose id an earlier one has."""
    message = (
        f"The custom_id of this request is a duplicate of the one on line {first}: it has to be "
        "unique for each request in a batch."
    )
    return batch_pb2.BatchError(
        code="duplicate_custom_id", message=message, param="custom_id", line=number
    )


def too_long(number: int) -> batch_pb2.BatchError:
    """The mistake of a line that nobody would take."""
    message = f"This line has more than {MAX_LINE >> 20} MB."
    return batch_pb2.BatchError(code="line_too_large", message=message, line=number)


def too_many() -> batch_pb2.BatchError:
    """The mistake of a file with more lines than the OpenAI API takes."""
    message = (
        f"The batch input file contains more than {MAX_TASKS:,} requests, the maximum: split the "
        "file, or set large."
    )
    return batch_pb2.BatchError(code="too_many_tasks", message=message)


def too_large() -> batch_pb2.BatchError:
    """The mistake of a file with more bytes than the OpenAI API takes."""
    message = (
        f"The batch input file has more than {MAX_INPUT >> 20} MB, the maximum: split it, or set "
        "large."
    )
    return batch_pb2.BatchError(code="file_too_large", message=message)


def too_many_inputs() -> batch_pb2.BatchError:
    """The mistake of a file that asks for more vectors than the OpenAI API gives."""
    message = (
        f"The requests of the batch input file have more than {MAX_INPUTS:,} inputs for embeddings "
        "together, the maximum: split the file, or set large."
    )
    return batch_pb2.BatchError(code="too_many_embedding_inputs", message=message)


def empty() -> batch_pb2.BatchError:
    """The mistake of a file without any request."""
    message = "The batch input file is empty: it has to contain at least one request."
    return batch_pb2.BatchError(code="empty_file", message=message)


def _clip(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")
