"""Writes model names into the paths of calls, where a provider wants them there; pure."""

from __future__ import annotations

import re

from broker.errors import InferenceError

_VERSIONED = re.compile(r"/v\d\w*/?$")
_PLAIN = re.compile(rb"[^A-Za-z0-9._~@-]")


def versioned(base_url: str, version: str) -> str:
    """What stands between a base URL and the rest of a path: nothing if it ends with a version."""
    return "" if _VERSIONED.search(base_url) else f"/{version}"


def unversioned(base_url: str) -> tuple[str, str]:
    """A base URL and the version at its end, which may be empty."""
    found = _VERSIONED.search(base_url)
    return (base_url[: found.start()], found[0].rstrip("/")) if found else (base_url, "")


def resource(name: str) -> str:
    """A name of segments with slashes as it stands in a path; no name leads out of its place.

    Raises `InferenceError` model_not_found for one that would.
    """
    segments = name.split("/")
    if not all(segments) or {".", ".."} & {*segments}:
        raise InferenceError("model_not_found", f"No model is named {name!r}.", param="model")
    return "/".join(map(quoted, segments))


def segment(name: str) -> str:
    """A name as the single segment of a path."""
    if name in ("", ".", ".."):
        raise InferenceError("model_not_found", f"No model is named {name!r}.", param="model")
    return quoted(name)


def quoted(text: str) -> str:
    """Any text as a part of a path or a query."""
    return _PLAIN.sub(lambda found: b"%%%02X" % found[0][0], text.encode()).decode()
