"""The table of forms: which path reads and writes which one."""

from __future__ import annotations

from edge.translate import wire
from edge.translate.chat_answer import ChatAnswer
from edge.translate.chat_request import parse_chat
from edge.translate.chat_stream import ChatStream
from edge.translate.embeddings import EmbeddingsAnswer, EmbeddingsRequest, parse_embeddings
from edge.translate.form import Form
from edge.translate.moderations import ModerationsAnswer, ModerationsRequest, parse_moderations
from edge.translate.rerank import RerankAnswer, RerankRequest, parse_rerank
from edge.translate.responses_answer import ResponsesAnswer
from edge.translate.responses_request import parse_responses
from edge.translate.responses_stream import ResponsesStream

CHAT = Form("chat completion", parse_chat, ChatAnswer, ChatStream.of, body=wire.ChatRequest)
EMBEDDINGS = Form("list of embeddings", parse_embeddings, EmbeddingsAnswer, body=EmbeddingsRequest)
MODERATIONS = Form("moderation", parse_moderations, ModerationsAnswer, body=ModerationsRequest)
RERANK = Form("ranking", parse_rerank, RerankAnswer, body=RerankRequest)

RESPONSE = Form("response", parse_responses, ResponsesAnswer, ResponsesStream.of)

# POST to such a path is one inference request.
ROUTES: dict[str, Form] = {
    "/v1/chat/completions": CHAT,
    "/v0/chat/completions": CHAT,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/moderations": MODERATIONS,
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
}
