"""The knobs of a simulated call, read from the model name and from the body's `sim` object.

A model name is a plain name, knobs, or both, separated by commas: `echo`, `tokens=50,burst`,
`sim-tokens=50,delay_ms=20,fault=cut,after=40`. A body may carry `"sim": {"tokens": 50}`; its
values win. Times are milliseconds. The table below is the whole language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FAULTS: Mapping[str, str] = {
    "status": "answers with the knob `status` and an OpenAI error body",
    "cut": "closes the connection after `after` tokens",
    "reset": "resets the connection: before the headers, or after `after` tokens when given",
    "hang": "takes the request and never answers",
    "stall": "falls silent after `after` tokens and keeps the connection",
    "bad_json": "breaks the JSON of the event that follows `after` tokens",
    "no_done": "leaves out the last `data: [DONE]`",
    "no_finish": "never names a finish reason, then ends as if all were well",
    "error_event": "puts an error into the stream after `after` tokens, and ends it there",
    "html": "answers 200 with an HTML page",
    "drip": "writes one byte at a time",
    "crlf": "ends the lines of the event stream with CRLF",
}


class BadRequestError(Exception):
    """A request the simulator refuses; becomes an OpenAI error body."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a call shall be like; every field is a knob of the same name."""

    tokens: int | None = None
    bytes: int | None = None
    echo: bool = False
    vary: bool = False
    reasoning: int = 0
    tool_call: int = 0
    finish: str | None = None
    no_usage: bool = False
    ttft_ms: float = 0.0
    delay_ms: float = 0.0
    chunk: int = 1
    burst: bool = False
    fault: frozenset[str] = frozenset()
    after: int | None = None
    status: int = 500
    code: str | None = None
    retry_after: float | None = None
    key: str | None = None
    first_n: int | None = None
    max_open: int | None = None
    allow_open: int | None = None
    allow_rate: int | None = None
    advertise: bool = False


@dataclass(frozen=True, slots=True)
class Knob:
    """How one knob is written, and what it does."""

    kind: str
    does: str
    low: float = 0
    high: float = 0


KNOBS: Mapping[str, Knob] = {
    "tokens": Knob("int", "length of the answer in tokens", 0, 1_000_000),
    "bytes": Knob("int", "length of the answer in bytes, spread over `tokens`", 0, 64 << 20),
    "echo": Knob("flag", "answers with the last user message"),
    "vary": Knob("flag", "makes the text of every call different"),
    "reasoning": Knob("int", "that many reasoning tokens come first", 0, 1_000_000),
    "tool_call": Knob("int", "calls the first N tools offered instead of answering", 0, 128),
    "finish": Knob("text", "the finish reason to name"),
    "no_usage": Knob("flag", "leaves the usage out"),
    "ttft_ms": Knob("float", "time to the first token", 0, 3_600_000),
    "delay_ms": Knob("float", "time between two tokens", 0, 3_600_000),
    "chunk": Knob("int", "tokens per event of a stream", 1, 1_000_000),
    "burst": Knob("flag", "all events of a stream in one write"),
    "fault": Knob("faults", "names joined by +: " + ", ".join(FAULTS)),
    "after": Knob("int", "tokens before the fault; half of the answer unless given", 0, 1_000_000),
    "status": Knob("int", "HTTP status of fault=status; alone it means that fault", 400, 599),
    "code": Knob("text", "error code of fault=status and fault=error_event"),
    "retry_after": Knob("float", "seconds in Retry-After: fault=status, allow_*", 0, 1_000_000),
    "key": Knob("text", "what first_n, max_open and allow_* count by; the model name unless given"),
    "first_n": Knob("int", "the fault hits only the first N calls of the key", 0, 1_000_000),
    "max_open": Knob("int", "answers 429 to more than N open calls of the key", 1, 1_000_000),
    "allow_open": Knob("int", "allows the key N calls at a time, else 429", 1, 1_000_000),
    "allow_rate": Knob("int", "allows the key N calls in any second, else 429", 1, 1_000_000),
    "advertise": Knob("flag", "tells of what allow_* allow in x-ratelimit headers"),
}

_YES_NO: Mapping[object, bool] = {"1": True, "true": True, "0": False, "false": False}
_TEXT = re.compile(r"[\w.:-]{1,100}")


def knobs_of(model: str, sim: object) -> Knobs:
    """Reads the knobs of a request.

    Args:
        model: the `model` of the body; a leading `sim/` or `sim-` is ignored.
        sim: the value of the body's `sim`, or None.

    Raises:
        BadRequestError: a knob is unknown (all of them are named) or its value is not allowed.
    """
    written: dict[str, tuple[str, object]] = {
        name: ("model", value) for name, value in _in_model(model).items()
    }
    if sim is not None:
        if not isinstance(sim, dict):
            raise BadRequestError("sim must be an object of knobs", param="sim")
        written |= {name: (f"sim.{name}", value) for name, value in sim.items()}
    unknown = [name for name in written if name not in KNOBS]
    if unknown:
        raise BadRequestError(
            f"unknown knobs: {', '.join(unknown)}; the knobs are {', '.join(KNOBS)}",
            param=written[unknown[0]][0],
            code="unknown_parameter",
        )
    values = {name: _value(name, given, param) for name, (param, given) in written.items()}
    if "status" in values and "fault" not in values:
        values["fault"] = frozenset({"status"})
    return Knobs(**values)  # type: ignore[arg-type]


def _in_model(model: str) -> dict[str, object]:
    rest = model.removeprefix("sim/")
    if rest.startswith("sim-"):
        rest = rest.removeprefix("sim-")
    found: dict[str, object] = {}
    for place, item in enumerate(rest.split(",")):
        name, equals, value = item.partition("=")
        if equals:
            found[name] = value
        elif place or name in KNOBS:  # the first word may be a plain model name
            found[name] = "1"
    return found


def _value(name: str, given: object, param: str) -> object:
    knob = KNOBS[name]
    kind, text = knob.kind, str(given).lower()
    try:
        if kind == "flag":
            return _YES_NO[text]
        if kind == "faults":
            return _faults(given)
        if kind == "text" and isinstance(given, str) and _TEXT.fullmatch(given):
            return given
        if kind in ("int", "float") and not isinstance(given, bool):
            number = int(text) if kind == "int" else float(text)
            if knob.low <= number <= knob.high:
                return number
    except (KeyError, ValueError):
        pass
    wanted = {
        "flag": "true or false",
        "faults": f"one or more of {', '.join(FAULTS)}, joined by +",
        "text": "1 to 100 letters, digits or ._:-",
        "int": f"a whole number from {knob.low:g} to {knob.high:g}",
        "float": f"a number from {knob.low:g} to {knob.high:g}",
    }[kind]
    raise BadRequestError(f"{name} must be {wanted}", param=param, code="invalid_value")


def _faults(given: object) -> frozenset[str]:
    names = given.split("+") if isinstance(given, str) else given
    if not isinstance(names, list) or not names:
        raise ValueError
    if not all(isinstance(name, str) and name in FAULTS for name in names):
        raise ValueError
    return frozenset(names)
