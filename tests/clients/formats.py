"""The formats of chat: what was asked, read from each, and the answer written in it."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.asked import Asked, Call, Json, Said, events, said, schema_within, text_of
from tests.workers import responses_answers

CREATED = 1_764_000_000

# --- OpenAI's chat completions, with the habits of those who copied it ---


def openai_chat(call: Call) -> Said:
    body = call.body
    last = body["messages"][-1]
    form = body.get("response_format") or {}
    schema = (form.get("json_schema") or {}).get("schema")
    if form.get("type") == "json_object":
        schema = schema_within(" ".join(text_of(turn["content"]) for turn in body["messages"]))
    asked = Asked(
        call.provider,
        text_of(last["content"]),
        {
            tool["function"]["name"]: tool["function"].get("parameters", {})
            for tool in body.get("tools", [])
            if body.get("tool_choice") != "none"
        },
        schema,
        answered=last["role"] == "tool",
    )
    if body.get("stream"):
        return events(_chunks(asked, body), done=call.provider != "perplexity")
    message: Json = {"role": "assistant", "content": asked.text}
    finish = "stop"
    if asked.calls:
        finish = "tool_calls"
        message |= {"content": None, "tool_calls": [_tool_call(call.provider, *asked.calls)]}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = {**_head(call.provider, body, 0), "object": "chat.completion"}
    choices = [choice | {"index": index} for index in range(body.get("n") or 1)]
    return said({**whole, "choices": choices, "usage": _usage(asked)})


def _tool_call(provider: str, name: str, arguments: Json) -> Json:
    call: Json = {"id": "call_1", "function": {"name": name, "arguments": json.dumps(arguments)}}
    # Mistral leaves the type out.
    return call if provider == "mistral" else call | {"type": "function"}


def _head(provider: str, body: Json, number: int) -> Json:
    # Groq has another id in every chunk.
    name = f"chatcmpl-{number if provider == 'groq' else 0}"
    return {"id": name, "created": CREATED, "model": body["model"] + "-2026-11"}


def _usage(asked: Asked) -> Json:
    count = {"prompt_tokens": 5, "completion_tokens": len(asked.pieces)}
    return count | {"total_tokens": sum(count.values())}


def _chunks(asked: Asked, body: Json) -> list[Json]:
    provider = asked.provider
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    finish = "stop"
    if asked.calls:
        finish = "tool_calls"
        call = _tool_call(provider, *asked.calls) | {"index": 0}
        text = call["function"]["arguments"]
        if provider == "mistral":  # a call comes whole
            deltas.append({"tool_calls": [call]})
        else:
            first = call | {"function": call["function"] | {"arguments": ""}}
            rest = [{"index": 0, "function": {"arguments": p}} for p in (text[:5], text[5:])]
            deltas += [{"tool_calls": [piece]} for piece in (first, *rest)]
    else:
        deltas += [{"content": piece} for piece in asked.pieces]
    choices: list[Json] = [{"index": 0, "delta": d, "finish_reason": None} for d in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [
        {**_head(provider, body, at), "object": "chat.completion.chunk", "choices": [choice]}
        for at, choice in enumerate(choices)
    ]
    usage = _usage(asked)
    if provider == "groq":
        chunks[-1]["x_groq"] = {"usage": usage}
    elif provider != "openai":
        chunks[-1]["usage"] = usage
    elif (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**chunks[-1], "choices": [], "usage": usage})
    return chunks


def openai_completions(call: Call) -> Said:
    body = call.body
    given = body["prompt"]
    asked = Asked(call.provider, given if isinstance(given, str) else str(given[0]))
    head = {**_head(call.provider, body, 0), "id": "cmpl-1", "object": "text_completion"}
    choice: Json = {"index": 0, "logprobs": None, "finish_reason": None}
    if not body.get("stream"):
        done = choice | {"text": asked.text, "finish_reason": "stop"}
        return said({**head, "choices": [done], "usage": _usage(asked)})
    chunks = [{**head, "choices": [choice | {"text": piece}]} for piece in asked.pieces]
    chunks.append({**head, "choices": [choice | {"text": "", "finish_reason": "stop"}]})
    chunks.append({**head, "choices": [], "usage": _usage(asked)})
    return events(chunks, done=True)


# --- OpenAI's responses ---


def openai_responses(call: Call) -> Said:
    body = call.body
    given = body["input"]
    last: Json = {"content": given} if isinstance(given, str) else given[-1]
    schema = ((body.get("text") or {}).get("format") or {}).get("schema")
    functions = [tool for tool in body.get("tools", []) if tool["type"] == "function"]
    asked = Asked(
        call.provider,
        text_of(last.get("content")),
        {tool["name"]: tool.get("parameters") or {} for tool in functions},
        schema,
        answered=last.get("type") == "function_call_output",
    )
    steps = responses_answers.message(0, *asked.pieces)
    if asked.calls:
        name, arguments = asked.calls
        text = json.dumps(arguments)
        steps = responses_answers.call(0, name, text[:5], text[5:])
    elif any(tool["type"] == "image_generation" for tool in body.get("tools", [])):
        steps = responses_answers.image(0) + responses_answers.message(1, *asked.pieces)
    done = [step["item"] for step in steps if step["type"] == "response.output_item.done"]
    model = body["model"] + "-2026-11"
    whole = responses_answers.response(done, "completed") | {"model": model}
    if not body.get("stream"):
        return said(whole)
    begun = responses_answers.response([], "in_progress") | {"model": model}
    found = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *steps,
        {"type": "response.completed", "response": whole},
    ]
    numbered = ({**event, "sequence_number": at} for at, event in enumerate(found))
    return events(numbered, named=True)


# --- Anthropic's messages ---


def anthropic_messages(call: Call) -> Said:
    body = call.body
    last = body["messages"][-1]["content"]
    output = body.get("output_config") or {}
    asked = Asked(
        call.provider,
        text_of(last),
        {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools", [])},
        (output.get("format") or body.get("output_format") or {}).get("schema"),
        answered=isinstance(last, list) and any(p["type"] == "tool_result" for p in last),
    )
    head: Json = {"id": "msg_up", "type": "message", "role": "assistant", "model": body["model"]}
    head |= {"stop_sequence": None}
    usage = {"input_tokens": 5, "output_tokens": len(asked.pieces)}
    block: Json = {"type": "text", "text": asked.text}
    stop = "end_turn"
    if asked.calls:
        name, arguments = asked.calls
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}
        stop = "tool_use"
    if not body.get("stream"):
        return said({**head, "content": [block], "stop_reason": stop, "usage": usage})
    deltas: list[Json] = [{"type": "text_delta", "text": piece} for piece in asked.pieces]
    empty = block | {"text": ""}
    if asked.calls:
        text = json.dumps(block["input"])
        deltas = [{"type": "input_json_delta", "partial_json": p} for p in (text[:5], text[5:])]
        empty = block | {"input": {}}
    found: list[Json] = [
        {
            "type": "message_start",
            "message": {**head, "content": [], "stop_reason": None, "usage": usage},
        },
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]
    return events(found, named=True)


def anthropic_count(_call: Call) -> Said:
    return said({"input_tokens": 7})


# --- Google's Gemini ---


def gemini(call: Call) -> Said:
    body = call.body
    parts = body["contents"][-1]["parts"]
    config = body.get("generationConfig") or {}
    declared = [
        function
        for tool in body.get("tools", [])
        for function in tool.get("functionDeclarations", [])
    ]
    asked = Asked(
        call.provider,
        text_of(parts),
        {
            function["name"]: function.get("parametersJsonSchema") or function.get("parameters", {})
            for function in declared
        },
        config.get("responseJsonSchema") or config.get("responseSchema"),
        answered=any("functionResponse" in part for part in parts),
    )
    model = call.path.rpartition("/")[2].partition(":")[0]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 4, "totalTokenCount": 9}
    said_parts: list[Json] = [{"text": piece} for piece in asked.pieces]
    if asked.calls:
        name, arguments = asked.calls
        said_parts = [{"functionCall": {"name": name, "args": arguments}}]
    elif "IMAGE" in config.get("responseModalities", ()):
        image = {"mimeType": "image/png", "data": responses_answers.PIXEL}
        said_parts = [{"inlineData": image}]

    def answer(found: list[Json], **more: Any) -> Json:
        candidate = {"content": {"parts": found, "role": "model"}, "index": 0, **more}
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": f"{model}-001",
            "responseId": "r-1",
        }

    if not call.path.endswith(":streamGenerateContent"):
        if not asked.calls and "text" in said_parts[0]:
            said_parts = [{"text": asked.text}]
        return said(answer(said_parts, finishReason="STOP"))
    *begun, last = said_parts
    return events([*(answer([part]) for part in begun), answer([last], finishReason="STOP")])


def gemini_count(_call: Call) -> Said:
    return said({"totalTokens": 7})


# --- Cohere's chat ---


def cohere_chat(call: Call) -> Said:
    body = call.body
    last = body["messages"][-1]
    form = body.get("response_format") or {}
    asked = Asked(
        call.provider,
        text_of(last["content"]),
        {
            tool["function"]["name"]: tool["function"].get("parameters", {})
            for tool in body.get("tools", [])
        },
        form.get("json_schema") or form.get("schema"),
        answered=last["role"] == "tool",
    )
    usage = {"tokens": {"input_tokens": 5, "output_tokens": len(asked.pieces)}}
    tool = asked.calls and {
        "id": "call_1",
        "type": "function",
        "function": {"name": asked.calls[0], "arguments": json.dumps(asked.calls[1])},
    }
    finish = "TOOL_CALL" if tool else "COMPLETE"
    if not body.get("stream"):
        message: Json = {"role": "assistant", "content": [{"type": "text", "text": asked.text}]}
        if tool:
            message = {"role": "assistant", "tool_plan": "I call it.", "tool_calls": [tool]}
        return said({"id": "c", "message": message, "finish_reason": finish, "usage": usage})
    return events(_cohere_events(asked, tool, finish, usage), named=True)


def _cohere_events(asked: Asked, tool: Json | None, finish: str, usage: Json) -> list[Json]:
    def event(kind: str, **message: Any) -> Json:
        return {"type": kind, "index": 0, "delta": {"message": message}}

    found: list[Json] = [
        {"id": "c", "type": "message-start", "delta": {"message": {"role": "assistant"}}}
    ]
    if tool:
        function = tool["function"]
        begun = tool | {"function": function | {"arguments": ""}}
        text = function["arguments"]
        found.append(event("tool-call-start", tool_calls=begun))
        found += [
            event("tool-call-delta", tool_calls={"function": {"arguments": piece}})
            for piece in (text[:5], text[5:])
        ]
        found.append({"type": "tool-call-end", "index": 0})
    else:
        found.append(event("content-start", content={"type": "text", "text": ""}))
        found += [event("content-delta", content={"text": piece}) for piece in asked.pieces]
        found.append({"type": "content-end", "index": 0})
    found.append({"type": "message-end", "delta": {"finish_reason": finish, "usage": usage}})
    return found
