"""Reads multipart/form-data as it comes: texts and files by the names of their fields.

A name may end in `[]` or in `[number]`, as SDKs write lists, or in `[key]`, as they write objects.
The bytes of files are there once, in one mapping of memory: it takes what they take, and goes back
to the system when they are let go, where the heap would keep it and break into pieces.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from broker.errors import InferenceError
from broker.translate.refusals import invalid, refused
from broker.v1 import operations_pb2

Content = bytes | memoryview
_Shape = TypeVar("_Shape", bound=msgspec.Struct)

# What a form may have at most: of fields, and of bytes in a text.
_MOST_FIELDS = 1000
_MOST_TEXT = 4 << 20
_MOST = 32 << 20
_BRACKETS = re.compile(r"\[\d*\]$")
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")
_KEY = re.compile(r"\[([^\[\]]+)\]")
# A name of a file that is not ASCII, as RFC 5987 has it; RFC 7578 forbids it, some send it.
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_json = msgspec.json.Decoder().decode


@dataclass(slots=True)
class File:
    """A file of a form; `name` and `media_type` are as the sender says them."""

    name: str
    media_type: str
    data: Content
    # Its place among the files of the form.
    number: int = 0

    def attachment(self) -> operations_pb2.Attachment:
        """The file as the hub knows it: a reference, the bytes stay where they are (R10)."""
        return operations_pb2.Attachment(
            filename=self.name,
            media_type=self.media_type,
            reference=operations_pb2.AttachmentReference(number=self.number, size=len(self.data)),
        )


@dataclass(slots=True)
class Fields:
    """A whole form. Lists keep the order in which their entries came."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[File]] = field(default_factory=dict)

    @property
    def contents(self) -> list[Content]:
        """The bytes of all files, by their numbers."""
        files = [file for files in self.files.values() for file in files]
        return [file.data for file in sorted(files, key=lambda file: file.number)]

    def source(self, shape: type[msgspec.Struct], *, lists: Collection[str] = ()) -> dict[str, Any]:
        """The texts as a JSON body would have them.

        `lists` are fields that are lists, beside the platform's; an object comes as JSON.
        """
        source: dict[str, Any] = {}
        for name, texts in self.texts.items():
            if "[" in name:
                _nest(source, name, texts)
            elif name in lists or name in _LISTS:
                source[name] = texts
            elif len(texts) > 1:
                raise invalid(name, f"'{name}' is there {len(texts)} times; give it once.")
            elif texts[0].startswith(("{", "[")) and _is_object(shape, name):
                source[name] = _read(name, texts[0])
            else:
                source[name] = texts[0]
        return source


_LISTS = frozenset({"tags", "models"})


def _nest(source: dict[str, Any], name: str, texts: list[str]) -> None:
    """Put texts where `a[b][c]` says; numbers and truth values are read as what they look like."""
    path = _NAME.fullmatch(name)
    if path is None:
        raise invalid(name, f"Invalid name of a field: '{name}'.")
    *outer, last = [path[1], *_KEY.findall(path[2])]
    where = source
    for key in outer:
        where = where.setdefault(key, {})
        if not isinstance(where, dict):
            raise invalid(path[1], f"'{path[1]}' is there as a text and as an object.")
    values = [_scalar(text) for text in texts]
    where[last] = values[0] if len(values) == 1 else values


def _scalar(text: str) -> Any:
    try:
        value = _json(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value if isinstance(value, int | float) else text


def _is_object(shape: type[msgspec.Struct], name: str) -> bool:
    """Whether a field can be JSON in a form: those of the platform that are, and unknown ones."""
    return name in ("provider", "extra_headers") or name not in shape.__struct_fields__


def _read(name: str, text: str) -> Any:
    try:
        return _json(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(name, f"Invalid '{name}': it begins as JSON and is none.") from exc


def form_shaped(source: Mapping[str, Any], shape: type[_Shape]) -> _Shape:
    """The values as a type; numbers and truth values stand in texts.

    Raises `InferenceError` invalid_request with the field at fault.
    """
    try:
        return msgspec.convert(source, shape, strict=False)
    except msgspec.ValidationError as exc:
        raise refused(exc, source) from exc


def typed(source: Mapping[str, Any], asked: msgspec.Struct) -> dict[str, Any]:
    """The same values, those that `asked` has a field for as it has them."""
    known = frozenset(asked.__struct_fields__)
    return {
        name: getattr(asked, name) if name in known else value for name, value in source.items()
    }


def boundary_of(content_type: bytes) -> bytes | None:
    """What separates the parts; None where the type is another one.

    Raises `InferenceError` where it is missing.
    """
    kind, parameters = parse_options_header(content_type.decode("latin-1"))
    if kind != b"multipart/form-data":
        return None
    if not (boundary := parameters.get(b"boundary")):
        raise broken("the Content-Type names no boundary")
    return boundary


class FormReader:
    """Takes the bytes of a body in, in pieces of any size; `most` is how large it may be."""

    def __init__(self, boundary: bytes, most: int = _MOST) -> None:
        self._fields = Fields()
        self._count = 0
        self._ended = False
        self._header: list[bytes] = []
        self._value: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._files = 0
        self._room: mmap.mmap | None = None
        self._most = most
        # Where the file that is being read begins, and where the last byte of any ends.
        self._start = self._filled = 0
        self._text = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, a, b: self._header.append(data[a:b]),
                    "on_header_value": lambda data, a, b: self._value.append(data[a:b]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._end_all,
                },
            )
        except FormParserError as exc:
            raise broken(str(exc)) from exc

    def feed(self, data: bytes) -> None:
        """More of the body. Raises `InferenceError` invalid_request."""
        if self._ended:
            return  # what follows the last boundary means nothing
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise broken(str(exc)) from exc

    def let_go(self) -> None:
        """Nothing more comes; call it in any case, or the bytes stay until a garbage collection."""
        self._parser.callbacks = {}
        self._room = None

    def close(self) -> Fields:
        """The form, when the body has ended."""
        if not self._ended:
            raise broken("it ends before its last boundary")
        return self._fields

    # What the parser calls.

    def _begin(self) -> None:
        self._count += 1
        if self._count > _MOST_FIELDS:
            raise broken(f"it has more than {_MOST_FIELDS} fields")
        self._headers = {}
        self._content = bytearray()
        self._start = self._filled

    def _end_header(self) -> None:
        self._headers[b"".join(self._header).lower()] = b"".join(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        self._text = self._filename() is None

    def _disposition(self) -> dict[bytes, bytes]:
        given = self._headers.get(b"content-disposition", b"")
        kind, parameters = parse_options_header(given.decode("latin-1"))
        if kind != b"form-data" or b"name" not in parameters:
            raise broken("a part does not say which field it is")
        return parameters

    def _filename(self) -> bytes | None:
        name = self._disposition().get(b"filename")
        extended = _EXTENDED.search(self._headers.get(b"content-disposition", b""))
        if name is not None or extended is None:
            return name
        return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), extended[1])

    def _named(self) -> tuple[str, str]:
        """The field that a part is, and the name of its file."""
        try:
            name = _without_brackets(self._disposition()[b"name"].decode())
            return name, (self._filename() or b"").decode()
        except UnicodeDecodeError as exc:
            raise broken("a name is not valid UTF-8") from exc

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._text:
            self._keep(memoryview(data)[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > _MOST_TEXT:
            raise broken(f"a text is larger than {_MOST_TEXT >> 20} MiB")

    def _keep(self, data: memoryview) -> None:
        if self._room is None:
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._room = mmap.mmap(-1, max(self._most, 1), flags=private)
        end = self._filled + len(data)
        if end > self._most:
            raise broken(f"it is larger than {self._most} bytes")
        self._room[self._filled : end] = data
        self._filled = end

    def _end(self) -> None:
        name, filename = self._named()
        if self._text:
            try:
                text = self._content.decode()
            except UnicodeDecodeError as exc:
                raise broken("a text is not valid UTF-8") from exc
            self._fields.texts.setdefault(name, []).append(text)
            return
        kind, _ = parse_options_header(self._headers.get(b"content-type", b"").decode("latin-1"))
        data: Content = b""
        if self._room is not None:
            data = memoryview(self._room)[self._start : self._filled]
        file = File(filename, kind.decode("latin-1"), data, self._files)
        self._files += 1
        self._fields.files.setdefault(name, []).append(file)

    def _end_all(self) -> None:
        self._ended = True


def _without_brackets(name: str) -> str:
    """`image[]` and `image[0]` as `image`."""
    return _BRACKETS.sub("", name)


def broken(why: str) -> InferenceError:
    """The 400 for a form that cannot be read."""
    message = f"We could not parse the multipart form of your request: {why}."
    return invalid(None, message, None)
