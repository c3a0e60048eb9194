"""Writes docs/endpoints.md: which endpoint works at which provider; --check only compares.

python docs/endpoints.py [--check]

Each cell is asked of the provider's own dialect: it has a call for the request, or refuses it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker import operations
from broker.catalog import catalog
from broker.errors import InferenceError
from broker.providers import REGISTRY
from broker.settings import ProviderSettings
from broker.translate.forms import ROUTES
from broker.v1 import content_pb2, generation_pb2, operations_pb2
from workers import registry
from workers.provider import Embeds, Most, Provider

PAGE = Path(__file__).parent / "endpoints.md"
OWN, MADE, ELSEWHERE, NO = "●", "○", "◐", ""
_PNG = b"\x89PNG\r\n\x1a\n"

_HEAD = f"""\
# Endpoints

Written by `python docs/endpoints.py` from the providers' declarations; do not edit it.

{OWN} the provider has it, and is asked in its own format. {MADE} Millrace makes it of something
else that the provider has. {ELSEWHERE} At an address of your own alone (`HUGGINGFACE_BASE_URL`).
Nothing: 400 `unsupported_operation`; with `models` or fallbacks the next candidate is asked. Not
every model of a provider can do it: `GET /v1/models` names what each is for.
"""


_SPLIT = """\
A request may have up to 10,000 inputs. Where that is more than a provider takes, or more tokens,
it is several calls, eight at a time; one that fails for a while is made again alone. An answer has
up to 192 MiB of vectors: 3,000 of 3,072 numbers as text, 10,000 in base64, which is what the
official libraries ask for.
"""


@dataclass(frozen=True)
class Endpoint:
    """One column: paths that are served alike, and a request to ask the dialects with."""

    title: str
    paths: tuple[str, ...]
    request: generation_pb2.Request
    # What the provider's own format for it is in, by the module; "" = whatever its dialect is.
    format: str = ""
    # Providers without it get it all the same.
    everywhere: bool = False

    @property
    def operation(self) -> str:
        """What it asks for."""
        return operations.name(self.request)


def _picture() -> operations_pb2.Attachment:
    return operations_pb2.Attachment(filename="a.png", media_type="image/png", data=_PNG)


def _image(**fields: object) -> generation_pb2.Request:
    image = operations_pb2.ImageRequest(prompt="a cat", **fields)  # type: ignore[arg-type]
    return generation_pb2.Request(image=image)


_HELLO = content_pb2.Message(
    role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text=content_pb2.Text(text="Hello"))]
)
_CHAT = generation_pb2.Request(generate=generation_pb2.GenerateRequest(messages=[_HELLO]))
_COUNT = generation_pb2.Request(count_tokens=_CHAT.generate)
_SPEECH = operations_pb2.Attachment(filename="a.wav", media_type="audio/wav", data=b"RIFF")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "Chat completions",
        ("/v1/chat/completions", "/v0/chat/completions"),
        *(_CHAT, "openai_chat", True),
    ),
    Endpoint("Responses", ("/v1/responses",), _CHAT, "openai_responses", True),
    Endpoint("Messages", ("/v1/messages",), _CHAT, "anthropic_messages", True),
    Endpoint("Tokens of messages", ("/v1/messages/count_tokens",), _COUNT, everywhere=True),
    Endpoint(
        "Completions",
        ("/v1/completions",),
        generation_pb2.Request(complete=operations_pb2.CompleteRequest(prompts=["Hello"])),
        everywhere=True,
    ),
    Endpoint(
        "Embeddings",
        ("/v1/embeddings",),
        generation_pb2.Request(embed=operations_pb2.EmbedRequest(texts=["Hello"])),
    ),
    Endpoint(
        "Rerank",
        ("/v1/rerank", "/v2/rerank"),
        generation_pb2.Request(
            rerank=operations_pb2.RerankRequest(
                query="Hello", documents=[operations_pb2.RerankDocument(text="Hello")]
            )
        ),
    ),
    Endpoint(
        "Moderations",
        ("/v1/moderations",),
        generation_pb2.Request(
            moderate=operations_pb2.ModerateRequest(
                inputs=[operations_pb2.ModerationInput(text="Hello")]
            )
        ),
    ),
    Endpoint("Images", ("/v1/images/generations",), _image()),
    Endpoint("Edits of images", ("/v1/images/edits",), _image(images=[_picture()])),
    Endpoint("Variations", ("/v1/images/variations",), _image(images=[_picture()], variation=True)),
    Endpoint(
        "Transcriptions",
        ("/v1/audio/transcriptions",),
        generation_pb2.Request(transcribe=operations_pb2.TranscribeRequest(file=_SPEECH)),
    ),
    Endpoint(
        "Translations",
        ("/v1/audio/translations",),
        generation_pb2.Request(
            transcribe=operations_pb2.TranscribeRequest(file=_SPEECH, translate=True)
        ),
    ),
    Endpoint(
        "Speech",
        ("/v1/audio/speech",),
        generation_pb2.Request(speak=operations_pb2.SpeakRequest(input="Hello", voice=b"alloy")),
    ),
)
# Paths that no provider is asked for -> the service over gRPC.
KEPT_HERE = {
    (
        "`POST` and `GET /v1/files`",
        "`GET` and `DELETE /v1/files/{file_id}`",
        "`GET /v1/files/{file_id}/content`",
    ): "`FileService`",
    (
        "`POST /v1/uploads`",
        *(f"`POST /v1/uploads/{{upload_id}}/{step}`" for step in ("parts", "complete", "cancel")),
    ): "`FileService.UploadFile`",
}
# Answered by routes of their own, beside the table of forms.
BESIDE = ("/v1/responses",)


def served() -> list[Endpoint]:
    """The endpoints that this version has."""
    paths = {*ROUTES, *BESIDE}
    return [endpoint for endpoint in ENDPOINTS if paths.issuperset(endpoint.paths)]


def loaded(kind: str, base_url: str = "") -> Provider:
    """The provider as an operator has it who has said all that it asks for."""
    options = {"project": "p"} if "project" in REGISTRY[kind].options else {}
    declared = registry.provider(kind).base_url
    address = base_url or ("" if declared else "https://provider.example/v1")
    return registry.load(ProviderSettings(kind, kind, base_url=address or None, options=options))


def takes(provider: Provider, endpoint: Endpoint) -> bool:
    """Whether the provider has a call for the endpoint's request, with some model."""
    return any(_takes(provider, endpoint, model) for model in (*provider.models, "model"))


def _takes(provider: Provider, endpoint: Endpoint, model: str) -> bool:
    try:
        dialect = provider.dialect_for(model, endpoint.operation)
        dialect.call(endpoint.request, model, provider)
    except InferenceError as exc:
        return exc.reason != "unsupported_operation"
    return True


def cell(kind: str, endpoint: Endpoint) -> str:
    """The mark of an endpoint at a provider."""
    provider = loaded(kind)
    if endpoint.format:
        alternative = provider.alternative
        formats = [provider.dialect]
        formats += [alternative.dialect] if alternative is not None else []
        own = any(f".{endpoint.format}" in type(one).__module__ for one in formats)
        return OWN if own else MADE
    if takes(provider, endpoint):
        return OWN
    if endpoint.everywhere:
        return MADE
    if provider.configure is not None and registry.provider(kind).base_url:
        own = takes(loaded(kind, "https://provider.example/v1"), endpoint)
        return ELSEWHERE if own else NO
    return NO


def _matrix() -> Iterator[str]:
    endpoints = served()
    yield "| Provider | " + " | ".join(endpoint.title for endpoint in endpoints) + " |"
    yield "|---|" + ":-:|" * len(endpoints)
    for kind in REGISTRY:
        cells = " | ".join(cell(kind, endpoint) for endpoint in endpoints)
        yield f"| `{kind}` | {cells} |".replace("|  |", "| |").replace("|  |", "| |")


def _paths() -> Iterator[str]:
    yield "| Endpoint | Paths | Operation over gRPC |"
    yield "|---|---|---|"
    for endpoint in served():
        paths = ", ".join(f"`POST {path}`" for path in endpoint.paths)
        yield f"| {endpoint.title} | {paths} | `{endpoint.operation}` |"


def _kept_here() -> Iterator[str]:
    yield "| Paths | Over gRPC |"
    yield "|---|---|"
    for paths, service in KEPT_HERE.items():
        yield f"| {', '.join(paths)} | {service} |"


def limits() -> Mapping[str, Mapping[Most, list[str]]]:
    """Provider -> how much goes into one call for embeddings -> listed models, [] for any."""
    known = catalog.load()
    found: dict[str, Mapping[Most, list[str]]] = {}
    for kind in REGISTRY:
        provider = registry.provider(kind)
        if operations.EMBED not in provider.operations:
            continue
        dialect = provider.operations[operations.EMBED]
        models = [m for m in provider.models if operations.EMBED in known.operations(kind, m)]
        if isinstance(dialect, Embeds):
            found[kind] = _by_limit(dialect, models)
    return found


def _by_limit(dialect: Embeds, models: list[str]) -> Mapping[Most, list[str]]:
    found: dict[Most, list[str]] = {}
    for model in models or [""]:
        found.setdefault(dialect.most(model), []).append(model)
    return found if len(found) > 1 else {most: [] for most in found}


def _limits() -> Iterator[str]:
    yield "| Provider | Models | Inputs a call | Tokens a call |"
    yield "|---|---|---|---|"
    for kind, by_limit in limits().items():
        for most, models in by_limit.items():
            names = ", ".join(f"`{model}`" for model in models)
            tokens = f"{most.tokens:,}" if most.tokens else ""
            yield f"| `{kind}` | {names} | {most.inputs:,} | {tokens} |".replace("|  |", "| |")


def page() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        *_matrix(),
        "\n## Paths\n",
        *_paths(),
        "\n## Without a provider\n",
        *_kept_here(),
        "\n## How many embeddings one call makes\n",
        _SPLIT,
        *_limits(),
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or say that it is out of date."""
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.is_file() and PAGE.read_text("utf-8") == wanted:
            return 0
        print(f"{PAGE} is out of date: run python docs/endpoints.py")
        return 1
    PAGE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
