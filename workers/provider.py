"""What a provider is to a worker: a dialect (wire format) plus a few declared facts; pure.

`Dialect.call` turns a hub request into one HTTP call, `Dialect.decoder` turns the bytes of its
answer into hub events, `Dialect.error` turns an error answer into an `InferenceError`. None of
them touches the world: sending is `workers.upstream`'s job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from broker.errors import InferenceError
from broker.operations import GENERATE, WORDS
from broker.routing.residency import Claim
from broker.v1 import event_pb2, generation_pb2
from broker.v1.content_pb2 import Part
from broker.v1.operations_pb2 import Attachment
from workers.batches import BatchApi
from workers.parameters import Table
from workers.wire import Call, Form

__all__ = [
    "Alternative",
    "Call",
    "Completes",
    "Credentials",
    "Decoder",
    "Detached",
    "Dialect",
    "Draws",
    "Embeds",
    "Form",
    "Most",
    "Provider",
    "Unreadable",
    "data_of",
    "not_continued",
]


class Detached(InferenceError):  # noqa: N818
    """A dialect wants the bytes of a file, and they are still at the edge.

    Raised by `Dialect.call`; whoever sends the call fetches them and asks for the call again.
    """


def data_of(attachment: Attachment) -> bytes:
    """The bytes of a file, for a format that has them inside. Raises `Detached`."""
    if attachment.HasField("reference"):
        raise Detached("invalid_request", "a file has to be sent with the request")
    return attachment.data


class Unreadable(InferenceError):  # noqa: N818
    """An image or file is given by an address that the provider does not read by itself.

    Raised by `Dialect.call`; whoever sends the call may put bytes into the parts that `reads` is
    false for, and ask for the call again.
    """

    def __init__(
        self, message: str, *, param: str, reads: Callable[[Part], bool] = lambda _: False
    ) -> None:
        super().__init__("invalid_request", message, param=param)
        self.reads = reads


def not_continued(who: str) -> InferenceError:
    """For a request whose last message is to be continued, where that cannot be asked for."""
    return InferenceError("unsupported_parameter", f"{who} does not continue a message")


class Decoder(Protocol):
    """Turns the body of a 2xx answer into hub events, fed in pieces of any size.

    The first event is `started`, the last is `completed`. A malformed answer, or an error inside
    a stream, raises `InferenceError`.
    """

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Events that became whole with these bytes."""
        ...

    def close(self) -> Iterable[event_pb2.Event]:
        """The body ended: last events, or `InferenceError` upstream_incomplete if it was cut."""
        ...


class Dialect(Protocol):
    """A wire format."""

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request; `model` is the name at the provider.

        Raises `Unreadable` where the worker has to fetch something first, else `InferenceError`.
        """
        ...

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; `headers` have lower-case names."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        ...


@dataclass(frozen=True, slots=True)
class Most:
    """How much one call takes: inputs, and tokens of all of them together; 0 = any number."""

    inputs: int
    tokens: int = 0


@runtime_checkable
class Embeds(Protocol):
    """A dialect of embeddings: says how much goes into one call."""

    def most(self, model: str) -> Most:
        """What one call takes at most; what is more is for several."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A dialect of images where one call gives only so many."""

    def most_images(self, model: str) -> int:
        """How many pictures a call can be asked for; for more there are as many calls."""
        ...


@runtime_checkable
class Completes(Protocol):
    """A dialect of completions: says what it does without."""

    def lacks(self, model: str) -> frozenset[str] | None:
        """Parameters that are not understood; None for a model that answers in chat alone.

        Of prompts, several at once are "prompts", and tokens in place of text "tokens".
        """
        ...


class Credentials(Protocol):
    """Gives the headers that let a call in, where a key in one header is not enough."""

    async def headers(self, key: str | None, call: Call, url: str) -> Mapping[str, str]:
        """The headers for one call, lower-case; `key` is the caller's or the worker's, if any.

        Waits for nothing but the first token of a key. Raises `InferenceError`.
        """
        ...

    def refused(self, key: str | None) -> None:
        """The provider answered 401 to a call with this key's headers."""
        ...


@dataclass(frozen=True, slots=True)
class Alternative:
    """A second format for generation, by the name of its API, such as "Responses"."""

    api: str
    dialect: Dialect
    # What becomes of each parameter in it.
    parameters: Table
    # Whether a request for a model is to be made in it.
    wanted: Callable[[generation_pb2.Request, str], bool] = lambda *_: False
    # Models that speak nothing else, by an expression that their names contain.
    models: str = ""

    def speaks(self, model: str) -> bool:
        """Whether this is the only format that a model speaks."""
        return bool(self.models) and re.search(self.models, model) is not None


@dataclass(frozen=True, slots=True)
class Provider:
    """Declared facts of one provider."""

    name: str
    dialect: Dialect
    base_url: str
    # Header that carries the key, and what stands before the key in it.
    auth_header: str = "authorization"
    auth_prefix: str = "Bearer "
    # A module of workers.credentials that stands in for the two above; it is imported when needed.
    credentials: str = ""
    # Sent with every call.
    headers: Mapping[str, str] = field(default_factory=dict)
    # Models to list when the operator names none.
    models: tuple[str, ...] = ()
    # A provider that works without a key (a local server) is on when its base URL is set.
    keyless: bool = False
    # Facts that the dialect asks for by name, such as "max_tokens_field".
    quirks: Mapping[str, str] = field(default_factory=dict)
    # What becomes of each parameter here.
    parameters: Table = field(default_factory=Table)
    # A second format, for models and requests that need it.
    alternative: Alternative | None = None
    # What it offers beside generation: operation -> the format it is asked for in.
    operations: Mapping[str, Dialect] = field(default_factory=dict)
    # Where addresses of its own process requests: an expression for the host, and what the
    # provider's documents say of it.
    residency: tuple[tuple[str, Claim], ...] = ()
    # Its own batch API, where lines of batches can be handed over to it.
    batches: BatchApi | None = None
    # Draws conclusions from the operator's options, which are among the quirks, such as the host
    # of a region. Raises ValueError, saying which option to set.
    configure: Callable[[Provider], Provider] | None = None

    @property
    def claims(self) -> frozenset[Claim]:
        """Where requests are processed that go to its address."""
        return frozenset(
            claim
            for host, claim in self.residency
            if re.fullmatch(rf"https://{host}(:443)?(/.*)?", self.base_url)
        )

    def serving(self, request: generation_pb2.Request, model: str) -> Provider:
        """The provider as this request is made: itself, or with its second format for the first."""
        second = self.alternative
        if second is None or not request.HasField("generate"):
            return self
        if second.speaks(model) or second.wanted(request, model):
            return self._in(second)
        return self

    @property
    def second_api(self) -> str:
        """The name of the second format's API; empty where there is none."""
        return self.alternative.api if self.alternative is not None else ""

    @property
    def formats(self) -> tuple[Provider, ...]:
        """The provider as it is with each of the formats it speaks, the first one first."""
        second = self.alternative
        return (self,) if second is None else (self, self._in(second))

    def _in(self, second: Alternative) -> Provider:
        return replace(
            self,
            dialect=second.dialect,
            parameters=second.parameters,
            alternative=None,
        )

    def dialect_for(self, model: str, operation: str = GENERATE) -> Dialect:
        """The dialect that a model is asked for an operation in.

        Raises `InferenceError` unsupported_operation.
        """
        if operation != GENERATE:
            return self._offered(operation)
        second = self.alternative
        return second.dialect if second is not None and second.speaks(model) else self.dialect

    def _offered(self, operation: str) -> Dialect:
        try:
            return self.operations[operation]
        except KeyError:
            raise InferenceError(
                "unsupported_operation",
                f"{self.name} does not offer {WORDS.get(operation, operation)}",
                param="model",
                provider=self.name,
            ) from None
