"""Scripts for audio: sound that follows from the text, and texts that follow from the sound.

A transcript names the file's size and digest, so that a caller can tell that every byte arrived.
"""

from __future__ import annotations

import hashlib
import re
import struct
from array import array
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from workers.sim.knobs import BadRequestError, knobs_of
from workers.sim.script import Script, pieces_script

RATE = 24_000
_CHARACTER_S = 0.05
_PIECE = 9600
# A frame of silence: MPEG 1, layer III, 128 kbit/s, 44.1 kHz.
_MP3_FRAME = b"\xff\xfb\x90\x64" + bytes(413)
_WORD_S = 0.5
_NAME = re.compile(rb'name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')


def speech(body: bytes) -> Script:
    """POST /v1/audio/speech."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    for name in ("model", "input", "voice"):
        if not request.get(name):
            raise BadRequestError(f"{name} is missing", param=name)
    model, text = str(request["model"]), str(request["input"])
    knobs = knobs_of(model, request.get("sim"))
    kind = request.get("response_format") or "mp3"
    if kind not in _SOUNDS:
        known = ", ".join(_SOUNDS)
        raise BadRequestError(f"response_format must be one of {known}", param="response_format")
    media_type, make = _SOUNDS[kind]
    sound = make(text, knobs.bytes)
    size = -(-len(sound) // knobs.tokens) if knobs.tokens else _PIECE
    pieces = [sound[at : at + size] for at in range(0, len(sound), size)]
    if request.get("stream_format") == "sse":
        media_type, pieces = b"text/event-stream", [*map(_heard, pieces), _spoken(text, pieces)]
    return pieces_script(model, knobs, media_type, pieces)


def pcm(text: str, size: int | None = None) -> bytes:
    """16-bit samples at `RATE`, one tone per character; `size` is in bytes."""
    count = int(RATE * _CHARACTER_S)
    sound = b"".join(
        array("h", [(at * (ord(letter) % 61 + 3)) % 4001 - 2000 for at in range(count)]).tobytes()
        for letter in (text if size is None else text[:8])
    )
    return sound if size is None else (sound * (size // len(sound) + 1))[:size]


def wav(text: str, size: int | None = None) -> bytes:
    """The same with a header; `size` is that of the whole."""
    sound = pcm(text, None if size is None else max(0, size - 44))
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE * 2, 2, 16)
    data = struct.pack("<4sI", b"data", len(sound))
    return struct.pack("<4sI4s", b"RIFF", 36 + len(sound), b"WAVE") + fmt + data + sound


def mp3(text: str, size: int | None = None) -> bytes:
    """Silence, as long as the text is."""
    count = len(text) if size is None else -(-size // len(_MP3_FRAME))
    return _MP3_FRAME * count


_SOUNDS: Mapping[str, tuple[bytes, Callable[[str, int | None], bytes]]] = {
    "mp3": (b"audio/mpeg", mp3),
    "wav": (b"audio/wav", wav),
    "pcm": (b"audio/pcm", pcm),
}


def _heard(piece: bytes) -> bytes:
    audio = b2a_base64(piece, newline=False).decode()
    return _event({"type": "speech.audio.delta", "audio": audio})


def _spoken(text: str, pieces: list[bytes]) -> bytes:
    read, written = len(text.split()), len(pieces)
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return _event({"type": "speech.audio.done", "usage": usage})


class _File(NamedTuple):
    name: str
    size: int
    digest: str


def transcription(body: bytes) -> Script:
    """POST /v1/audio/transcriptions."""
    return _transcript(body, "transcribe")


def translation(body: bytes) -> Script:
    """POST /v1/audio/translations."""
    return _transcript(body, "translate")


def _transcript(body: bytes, task: str) -> Script:
    fields, file = _form(body)
    model = fields.get("model", "")
    if not model:
        raise BadRequestError("model is missing", param="model")
    if file is None:
        raise BadRequestError("file is missing", param="file")
    knobs = knobs_of(model, None)
    text = f"{task}d {file.name} with {file.size} bytes and digest {file.digest}"
    if prompt := fields.get("prompt"):
        text = f"{prompt} {text}"
    words = [word if at == 0 else f" {word}" for at, word in enumerate(text.split())]
    kind = fields.get("response_format", "json")
    if fields.get("stream") == "true":
        events = [_event({"type": "transcript.text.delta", "delta": word}) for word in words]
        done = {"type": "transcript.text.done", "text": text, "usage": _tokens(words)}
        return pieces_script(model, knobs, b"text/event-stream", [*events, _event(done)])
    answer = _WHOLE[kind](text, words) if kind in _WHOLE else {"text": text}
    if kind == "verbose_json":
        answer |= {"task": task, "language": fields.get("language", "english")}
    return pieces_script(model, knobs, b"application/json", [orjson.dumps(answer)])


def _verbose(text: str, words: list[str]) -> dict[str, Any]:
    return {
        "text": text,
        "duration": len(words) * _WORD_S,
        "segments": [
            {"id": at, "start": start, "end": end, "text": word, "avg_logprob": -0.25}
            for at, (start, end, word) in enumerate(_timed(words))
        ],
        "words": [
            {"word": word.strip(), "start": start, "end": end} for start, end, word in _timed(words)
        ],
        "usage": {"type": "duration", "seconds": len(words) * _WORD_S},
    }


def _diarized(text: str, words: list[str]) -> dict[str, Any]:
    return {
        "text": text,
        "duration": len(words) * _WORD_S,
        "segments": [
            {"id": f"seg_{at}", "start": start, "end": end, "speaker": "AB"[at % 2], "text": word}
            for at, (start, end, word) in enumerate(_timed(words))
        ],
        "usage": _tokens(words),
    }


def _plain(text: str, words: list[str]) -> dict[str, Any]:
    return {"text": text, "usage": _tokens(words)}


_WHOLE: Mapping[str, Callable[[str, list[str]], dict[str, Any]]] = {
    "json": _plain,
    "verbose_json": _verbose,
    "diarized_json": _diarized,
}


def _timed(words: list[str]) -> Iterable[tuple[float, float, str]]:
    ends = accumulate(_WORD_S for _ in words)
    return ((end - _WORD_S, end, word) for end, word in zip(ends, words, strict=True))


def _tokens(words: list[str]) -> dict[str, Any]:
    heard = len(words) * 10
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": len(words),
        "total_tokens": heard + len(words),
    }


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(said) + b"\n\n"


def _form(body: bytes) -> tuple[dict[str, str], _File | None]:
    """The texts of a form, and what is to be known of its file."""
    separator, found, _ = body.partition(b"\r\n")
    if not found or not separator.startswith(b"--"):
        raise BadRequestError("the body is no form")
    fields: dict[str, str] = {}
    file: _File | None = None
    at = len(separator) + 2
    while (end := body.find(b"\r\n" + separator, at)) >= 0:
        head_end = body.index(b"\r\n\r\n", at)
        head, content = body[at:head_end], memoryview(body)[head_end + 4 : end]
        name = _NAME.search(head)
        if name is not None and (filename := _FILENAME.search(head)):
            digest = hashlib.sha256(content).hexdigest()
            file = _File(filename[1].decode(errors="replace"), len(content), digest)
        elif name is not None:
            fields[name[1].decode()] = bytes(content).decode(errors="replace")
        at = end + len(separator) + 4
    return fields, file


# What each path answers.
SCRIPTS: Mapping[bytes, Callable[[bytes], Script]] = {
    b"/v1/audio/speech": speech,
    b"/v1/audio/transcriptions": transcription,
    b"/v1/audio/translations": translation,
}
