"""What a hub request asks for: its operation, its model, whether it streams; pure."""

from __future__ import annotations

from broker.v1 import generation_pb2, operations_pb2

GENERATE = "generate"
EMBED = "embed"
IMAGE = "image"
TRANSCRIBE = "transcribe"
SPEAK = "speak"
MODERATE = "moderate"
RERANK = "rerank"
COUNT_TOKENS = "count_tokens"
COMPLETE = "complete"

# As callers know them.
WORDS = {
    GENERATE: "chat",
    EMBED: "embeddings",
    IMAGE: "image generation",
    TRANSCRIBE: "transcription",
    SPEAK: "speech",
    MODERATE: "moderation",
    RERANK: "reranking",
    COUNT_TOKENS: "token counting",
    COMPLETE: "completions",
}
# Every operation there is, by its name in `Request`.
ALL: tuple[str, ...] = tuple(
    field.name for field in generation_pb2.Request.DESCRIPTOR.oneofs_by_name["operation"].fields
)
# Whose answers may take minutes, whoever gives them.
LENGTHY = frozenset({IMAGE, TRANSCRIBE})
_STREAMED = frozenset({GENERATE, IMAGE, TRANSCRIBE, COMPLETE})

# `response_format` of speech -> MIME type, where the provider says none.
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def name(request: generation_pb2.Request) -> str:
    """The operation of a request; "" when it has none."""
    return request.WhichOneof("operation") or ""


def model(request: generation_pb2.Request) -> str:
    """The model as the caller named it; "" when the request has no operation."""
    operation = request.WhichOneof("operation")
    return str(getattr(request, operation).model) if operation else ""


def streams(request: generation_pb2.Request) -> bool:
    """Whether the caller reads the answer as it comes."""
    operation = request.WhichOneof("operation") or ""
    if operation == SPEAK:
        return True  # sound is passed on piece by piece, whatever form it has
    return operation in _STREAMED and bool(getattr(request, operation).stream)


def pauses(request: generation_pb2.Request) -> bool:
    """Whether a provider that is at work may be silent for minutes: it draws, or runs a tool."""
    if request.HasField("image"):
        return True
    return any(tool.HasField("hosted") for tool in request.generate.tools)


def set_streamed(request: generation_pb2.Request, streamed: bool) -> None:
    """Say whether the caller reads the answer as it comes, where the operation can say that."""
    operation = request.WhichOneof("operation") or ""
    if operation in _STREAMED:
        getattr(request, operation).stream = streamed


def attachments(request: generation_pb2.Request) -> list[operations_pb2.Attachment]:
    """The files of a request, to be changed in place."""
    match request.WhichOneof("operation"):
        case "transcribe":
            return [request.transcribe.file]
        case "image":
            image = request.image
            return [*image.images, *([image.mask] if image.HasField("mask") else ())]
        case _:
            return []
