"""The table of forms: which path reads and writes which one."""

from __future__ import annotations

from dataclasses import replace

from broker.translate import wire
from broker.translate.audio_speech import SpeechAnswer, SpeechRequest, parse_speech, speech_stream
from broker.translate.audio_transcript import TranscriptAnswer, TranscriptStream
from broker.translate.audio_transcription import (
    TranscriptionRequest,
    parse_transcription,
    parse_translation,
)
from broker.translate.chat_answer import ChatAnswer
from broker.translate.chat_request import parse_chat
from broker.translate.chat_stream import ChatStream
from broker.translate.completions import (
    CompletionAnswer,
    CompletionRequest,
    CompletionStream,
    parse_completion,
)
from broker.translate.embeddings import EmbeddingsAnswer, EmbeddingsRequest, parse_embeddings
from broker.translate.form import Form, only_in_forms
from broker.translate.images import (
    ImageEditsRequest,
    ImagesRequest,
    ImageVariationsRequest,
    parse_edits,
    parse_edits_form,
    parse_images,
    parse_variations,
    parse_variations_form,
)
from broker.translate.images_answer import ImagesAnswer, ImagesStream
from broker.translate.messages_api_answer import MessagesAnswer
from broker.translate.messages_api_errors import messages_error, messages_status
from broker.translate.messages_api_request import parse_count, parse_messages
from broker.translate.messages_api_stream import MessagesStream
from broker.translate.messages_api_wire import CountRequest, MessagesRequest
from broker.translate.moderations import ModerationsAnswer, ModerationsRequest, parse_moderations
from broker.translate.rerank import RerankAnswer, RerankRequest, parse_rerank
from broker.translate.responses_answer import ResponsesAnswer
from broker.translate.responses_request import parse_responses
from broker.translate.responses_stream import ResponsesStream
from broker.translate.token_count import CountAnswer, InputTokensAnswer
from broker.translate.wire_responses import ResponsesRequest

CHAT = Form("chat completion", parse_chat, ChatAnswer, ChatStream.of, body=wire.ChatRequest)
COMPLETION = Form(
    "completion", parse_completion, CompletionAnswer, CompletionStream.of, body=CompletionRequest
)
EMBEDDINGS = Form("list of embeddings", parse_embeddings, EmbeddingsAnswer, body=EmbeddingsRequest)
IMAGES = Form("list of images", parse_images, ImagesAnswer, ImagesStream, body=ImagesRequest)
IMAGE_EDITS = Form(
    "list of edited images",
    parse_edits,
    ImagesAnswer,
    ImagesStream,
    parse_form=parse_edits_form,
    body=ImageEditsRequest,
)
IMAGE_VARIATIONS = Form(
    "list of image variations",
    parse_variations,
    ImagesAnswer,
    parse_form=parse_variations_form,
    body=ImageVariationsRequest,
)
MODERATIONS = Form("moderation", parse_moderations, ModerationsAnswer, body=ModerationsRequest)
RERANK = Form("ranking", parse_rerank, RerankAnswer, body=RerankRequest)
MESSAGES = Form(
    "message",
    parse_messages,
    MessagesAnswer,
    MessagesStream.of,
    error=messages_error,
    status=messages_status,
    request_id=b"request-id",
    body=MessagesRequest,
)
MESSAGE_TOKENS = replace(
    MESSAGES,
    title="count of a message's tokens",
    parse=parse_count,
    answer=CountAnswer,
    stream=None,
    body=CountRequest,
)
TRANSCRIPTION = Form(
    "transcription",
    only_in_forms,
    TranscriptAnswer,
    TranscriptStream.of,
    parse_form=parse_transcription,
    files=("file",),
    body=TranscriptionRequest,
)
TRANSLATION = replace(TRANSCRIPTION, title="translation", parse_form=parse_translation)
SPEECH = Form("speech", parse_speech, SpeechAnswer, speech_stream, body=SpeechRequest)

RESPONSE = Form(
    "response", parse_responses, ResponsesAnswer, ResponsesStream.of, body=ResponsesRequest
)
RESPONSE_TOKENS = Form(
    "count of a response's input tokens", parse_responses, InputTokensAnswer, body=ResponsesRequest
)

# POST to such a path is one inference request.
ROUTES: dict[str, Form] = {
    "/v1/chat/completions": CHAT,
    "/v0/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGE_EDITS,
    "/v1/images/variations": IMAGE_VARIATIONS,
    "/v1/moderations": MODERATIONS,
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
    "/v1/audio/transcriptions": TRANSCRIPTION,
    "/v1/audio/translations": TRANSLATION,
    "/v1/audio/speech": SPEECH,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": MESSAGE_TOKENS,
}
# The same, for requests that may go on from what is kept.
KEPT: dict[str, Form] = {
    "/v1/responses": RESPONSE,
    "/v1/responses/input_tokens": RESPONSE_TOKENS,
}
