"""What an operator sees of a process: its log lines and its numbers.

`start` is called once by each process; the `Telemetry` it returns is passed down. Log lines go to
stderr as JSON or in a form for people, without secrets. Numbers are Prometheus metrics, each with
the label `process`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, cast

import orjson
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client import Counter as _PrometheusCounter
from prometheus_client import Histogram as _PrometheusHistogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker.config import LogSettings

# How long a line may wait for others to be written with it, and how many bytes of them: a pipe that
# several processes write to keeps writes of up to 4096 bytes whole.
FLUSH_S = 0.2
FLUSH_BYTES = 4096

# From a millisecond to ten minutes: added latency and whole answers of reasoning models.
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)  # fmt: skip

_HIDDEN = "[hidden]"
# Shapes of secrets, as they occur in messages, tracebacks and headers. A match keeps its group 1.
_SECRET = re.compile(
    r"(\bbearer\s+)[\w.~+/=-]{6,}"
    r"|(://[^/\s:@\"']*:)[^/\s@\"']+(?=@)"
    r"|((?:(?:api|provider|master|private|access)[-_]?key|authorization|secret|credential"
    r"|passw(?:or)?d|(?:fleet|security|session)[-_]?token|nkey[-_]?seed)"
    r"\\?[\"']?\s*[:=]\s*(?:b(?=[\"']))?\\?[\"']?(?:basic\s+)?)[^\s\"'\\,;&]{6,}"
    r"|\b(?:mr|sk|pk|rk|gsk|xai|pplx|hf|nvapi|csk|fw|r8)[-_][\w-]{12,}"
    r"|\bAIza[\w-]{20,}"
    r"|\bya29\.[\w.-]{12,}"
    r"|\b(?-i:A[KS]IA[A-Z0-9]{12,})(?::[A-Za-z0-9/+=]{16,}(?::[\w+/=.-]+)?)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+"
    r"|\bS[UOANC][A-Z2-7]{56}\b",
    re.IGNORECASE,
)
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}
_COLORS = {"DEBUG": "\x1b[2m", "INFO": "\x1b[32m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m"}


def redact(text: str) -> str:
    """`text` without anything that looks like a key, a password or a bearer token."""
    return _SECRET.sub(lambda m: (m[1] or m[2] or m[3] or "") + _HIDDEN, text)


@functools.lru_cache(maxsize=1024)
def redact_name(name: str) -> str:
    """`redact` for what is written again and again, such as names of models."""
    return redact(name)


class Sink:
    """Writes lines to a stream, gathering those of 0.2 s while an event loop runs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pending: list[bytes] = []
        self._size = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def write(self, line: bytes, *, at_once: bool = False) -> None:
        """Add one line (with its line feed)."""
        if self._size + len(line) > FLUSH_BYTES:
            self.flush()
        with self._lock:
            self._pending.append(line)
            self._size += len(line)
        if at_once:
            self.flush()
        elif self._loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # before or after the loop, or another thread
                self.flush()
                return
            self._loop = loop
            loop.call_later(FLUSH_S, self._tick)

    def flush(self) -> None:
        """Write what is pending; a stream that nobody reads any more is not an error."""
        with self._lock:
            lines, self._pending, self._size = self._pending, [], 0
            if self._loop is not None and self._loop.is_closed():
                self._loop = None
            if not lines:
                return
            try:
                self._stream.write(b"".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                pass  # closed: there is nowhere left to complain

    def _tick(self) -> None:
        self._loop = None
        self.flush()


class _Formatter(Protocol):
    def line(
        self, when: datetime, level: str, logger: str, message: str, fields: Mapping[str, object]
    ) -> bytes: ...


class JsonFormatter:
    """One JSON object a line: time, level, process, logger, message, then the fields."""

    def __init__(self, process: str) -> None:
        self._process = process

    def line(
        self, when: datetime, level: str, logger: str, message: str, fields: Mapping[str, object]
    ) -> bytes:
        """The line as bytes with its line feed; values that JSON does not know become text."""
        row = {
            "time": when,
            "level": level.lower(),
            "process": self._process,
            "logger": logger,
            "message": message,
            **fields,
        }
        return orjson.dumps(row, default=str, option=_JSON_OPTIONS)


_JSON_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


class PrettyFormatter:
    """A line for people: local time, level, process, message, name=value."""

    def __init__(self, process: str, *, color: bool) -> None:
        self._process = process
        self._color = color

    def line(
        self, when: datetime, level: str, logger: str, message: str, fields: Mapping[str, object]
    ) -> bytes:
        """The line as bytes with its line feed; empty fields are left out."""
        shown = dict(fields)
        trace = shown.pop("exception", None)
        pairs = "".join(f" {k}={_plain(v)}" for k, v in shown.items() if v not in (None, ""))
        word = f"{_COLORS.get(level, '')}{level:7}\x1b[0m" if self._color else f"{level:7}"
        time = when.astimezone().strftime("%H:%M:%S.%f")[:-3]
        text = f"{time} {word} {self._process}: {_plain(message)}{pairs}\n"
        return (f"{text}{trace}\n" if trace else text).encode(errors="replace")


def _plain(value: object) -> str:
    """The value as text that cannot forge a line or steer the terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class LogHandler(logging.Handler):
    """Takes every record of the process; `extra=` of a call becomes fields of its line."""

    def __init__(self, sink: Sink, formatter: _Formatter) -> None:
        super().__init__()
        self._sink = sink
        self._lines = formatter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            when = datetime.fromtimestamp(record.created, UTC)
            message = record.getMessage()
            line = self._lines.line(when, record.levelname, record.name, message, fields)
            # Redacting the whole line covers messages, fields and tracebacks alike.
            clean = redact(line.decode(errors="replace")).encode()
            self._sink.write(clean, at_once=record.levelno >= logging.WARNING)
        except Exception:  # noqa: BLE001  a log line must never break what it reports on
            self.handleError(record)

    def flush(self) -> None:
        self._sink.flush()


class RequestLog:
    """One line for each finished request, at a fraction of the price of a log record.

    Its fields are not redacted: callers give ids, names, numbers, and what clients wrote redacted.
    """

    def __init__(self, sink: Sink | None, formatter: _Formatter | None) -> None:
        self._sink = sink
        self._formatter = formatter

    @property
    def on(self) -> bool:
        """Whether lines are wanted, so that callers need not gather the fields."""
        return self._sink is not None

    def write(self, message: str, fields: Mapping[str, object]) -> None:
        """Log `message` with `fields` at level info."""
        if self._sink is not None and self._formatter is not None:
            now = datetime.now(UTC)
            self._sink.write(self._formatter.line(now, "INFO", "requests", message, fields))


class _Family(Protocol):
    def labels(self, *values: str) -> Any: ...


class _Children:
    """The children of one metric by label values: finding them anew costs 1 us a time."""

    def __init__(self, family: _Family, process: str) -> None:
        self._family = family
        self._process = process
        self._known: dict[tuple[str, ...], Any] = {}

    def of(self, values: tuple[str, ...]) -> Any:
        child = self._known.get(values)
        if child is None:
            child = self._known[values] = self._family.labels(self._process, *values)
        return child


class Counter(_Children):
    """A number that only grows, by label values."""

    def add(self, *values: str, by: float = 1) -> None:
        """Count one more, or `by` more, for these label values."""
        self.of(values).inc(by)


class Histogram(_Children):
    """How often a quantity fell into each bucket, by label values."""

    def observe(self, quantity: float, *values: str) -> None:
        """Count one observation for these label values."""
        self.of(values).observe(quantity)


Reading = float | Mapping[tuple[str, ...], float]
_Source = TypeVar("_Source")


@dataclass(frozen=True, slots=True)
class Gauge(Generic[_Source]):
    """A gauge of several that are read together; `of` gives its reading of what was read."""

    name: str
    text: str
    of: Callable[[_Source], Reading]
    labels: tuple[str, ...] = ()


class _Gauges(Collector, Generic[_Source]):
    """Gauges that are read when somebody looks; keeping them current costs nothing."""

    def __init__(
        self, process: str, read: Callable[[], _Source], gauges: Sequence[Gauge[_Source]]
    ) -> None:
        self._process = process
        self._read = read
        self._gauges = gauges

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [self._family(gauge) for gauge in self._gauges]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        source = self._read()
        for gauge in self._gauges:
            family = self._family(gauge)
            reading = gauge.of(source)
            rows = reading if isinstance(reading, Mapping) else {(): reading}
            for values, value in rows.items():
                family.add_metric((self._process, *values), value)
            yield family

    def _family(self, gauge: Gauge[_Source]) -> GaugeMetricFamily:
        labels = ("process", *gauge.labels)
        return GaugeMetricFamily(f"millrace_{gauge.name}", gauge.text, labels=labels)


class Metrics:
    """The numbers of one process. Names get the prefix `millrace_`."""

    def __init__(self, process: str) -> None:
        # Else every counter and histogram has one more series, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._process = process
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.gauge("tasks", "asyncio tasks that are alive.", lambda: float(_tasks()))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter; shown with `_total` at the end of its name."""
        names = ("process", *labels)
        family = _PrometheusCounter(f"millrace_{name}", text, names, registry=self.registry)
        return Counter(cast("_Family", family), self._process)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        """A new histogram; `buckets` are upper bounds, of seconds unless given."""
        names = ("process", *labels)
        family = _PrometheusHistogram(
            f"millrace_{name}", text, names, buckets=buckets, registry=self.registry
        )
        return Histogram(cast("_Family", family), self._process)

    def gauge(self, name: str, text: str, read: Callable[[], Reading], *labels: str) -> None:
        """A new gauge: `read` gives a number, or with labels a number by their values."""
        self.gauges(read, [Gauge(name, text, _itself, labels)])

    def gauges(self, read: Callable[[], _Source], gauges: Sequence[Gauge[_Source]]) -> None:
        """New gauges that `read` is called for once, whenever somebody looks."""
        self.registry.register(_Gauges(self._process, read, gauges))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All numbers as text, and its content type; `accept` is the header of who asks."""
        encode, content_type = exposition.choose_encoder(accept)
        return encode(self.registry), content_type


def _itself(reading: Reading) -> Reading:
    return reading


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked from outside the loop
        return 0


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What `start` made: numbers, request log, and the process name that both carry."""

    process: str
    metrics: Metrics
    requests: RequestLog
    sink: Sink | None = field(default=None, repr=False)

    @classmethod
    def silent(cls, process: str) -> Telemetry:
        """Numbers without any logging set up, for a part that is used by itself."""
        return cls(process, Metrics(process), RequestLog(None, None))


def start(log: LogSettings, process: str, stream: BinaryIO | None = None) -> Telemetry:
    """Set up logging of this process, replacing what was there; `stream` None is stderr.

    Level `info` logs a line for each finished request; `warning` and above do not.
    """
    out = sys.stderr.buffer if stream is None else stream
    terminal = out.isatty()
    pretty = log.format == "pretty" or (log.format == "auto" and terminal)
    lines = PrettyFormatter(process, color=terminal) if pretty else JsonFormatter(process)
    sink = Sink(out)
    logging.basicConfig(level=log.level.upper(), handlers=[LogHandler(sink, lines)], force=True)
    logging.captureWarnings(capture=True)
    # Its own lines about each connection and start-up step repeat ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # It writes whole addresses: those of webhooks are secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    wanted = logging.getLogger().isEnabledFor(logging.INFO)
    requests = RequestLog(sink, lines) if wanted else RequestLog(None, None)
    return Telemetry(process, Metrics(process), requests, sink)
