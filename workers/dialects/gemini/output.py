"""What an answer is made of besides text: modalities and voices asked for, sound as it comes."""

from __future__ import annotations

import re
import struct
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2

# Voices of OpenAI's that Gemini has no namesake of, and what comes near.
# Source: the voices' descriptions in both providers' documentation.
_VOICES = {
    "alloy": "Kore",
    "ash": "Orus",
    "ballad": "Enceladus",
    "cedar": "Charon",
    "coral": "Aoede",
    "echo": "Puck",
    "fable": "Sadaltager",
    "marin": "Sulafat",
    "nova": "Leda",
    "onyx": "Algenib",
    "sage": "Vindemiatrix",
    "shimmer": "Zephyr",
    "verse": "Fenrir",
}
_FORMATS = ("wav", "pcm16", "pcm")
_RATE = re.compile(r"rate=(\d+)")
_DEFAULT_RATE = 24_000
# Of a stream whose length nobody knows yet.
_ENDLESS = 0xFFFFFFFF
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def modalities(wanted: list[str]) -> list[str]:
    """The responseModalities; models that speak answer with sound alone."""
    if "audio" in wanted:
        return ["AUDIO"]
    return [name.upper() for name in wanted]


def speech(wanted: generation_pb2.AudioOptions) -> dict[str, Any]:
    """The speechConfig for a voice; a voice of Gemini's own goes by its name."""
    if wanted.format and wanted.format not in _FORMATS:
        raise InferenceError(
            "unsupported_parameter",
            f"Gemini's sound comes as {_FORMATS[0]} or {_FORMATS[1]}, not {wanted.format}.",
            param="audio.format",
        )
    name = wanted.voice.decode(errors="replace")
    if name.startswith("{"):
        try:
            given = orjson.loads(wanted.voice)
        except orjson.JSONDecodeError:
            given = {}
        name = str(given.get("id") or given.get("name") or "")
    voice = {"prebuiltVoiceConfig": {"voiceName": _VOICES.get(name.lower(), name)}}
    return {"voiceConfig": voice}


def wav_header(media_type: str, size: int | None) -> bytes:
    """What makes raw 16-bit samples a WAV file; `size` in bytes, None while it is unknown."""
    found = _RATE.search(media_type)
    rate = int(found[1]) if found else _DEFAULT_RATE
    length = _ENDLESS if size is None else size
    return _HEADER.pack(
        b"RIFF",
        min(_ENDLESS, length + _HEADER.size - 8),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        rate * 2,
        2,
        16,
        b"data",
        length,
    )
