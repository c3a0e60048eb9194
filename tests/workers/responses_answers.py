"""Streams of the Responses API in the order in which api.openai.com was recorded to send them."""

from __future__ import annotations

import json
from typing import Any

_Event = dict[str, Any]
PIXEL = "iVBORw0KGgo="
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 32,
}


def _item(number: int, item: _Event, done: _Event, *between: _Event) -> list[_Event]:
    """An item from its beginning to its end; `between` get its place."""
    place = {"output_index": number}
    steps = [{**step, **place, "item_id": item["id"]} for step in between]
    return [
        {"type": "response.output_item.added", **place, "item": item},
        *steps,
        {"type": "response.output_item.done", **place, "item": {**item, **done}},
    ]


def _step(kind: str, **fields: Any) -> _Event:
    return {"type": f"response.{kind}", **fields}


def _text(text: str, *, logprobs: bool = False) -> _Event:
    probabilities = [{"token": text, "logprob": -0.5, "bytes": [1], "top_logprobs": []}]
    return {
        "type": "output_text",
        "annotations": [],
        "logprobs": probabilities if logprobs else [],
        "text": text,
    }


def message(number: int, *pieces: str, status: str = "completed", **more: Any) -> list[_Event]:
    """A message of one text."""
    whole = _text("".join(pieces))
    notes = [
        _step("output_text.annotation.added", content_index=0, annotation_index=at, annotation=note)
        for at, note in enumerate(more.pop("annotations", ()))
    ]
    whole["annotations"] = [note["annotation"] for note in notes]
    item = {"id": f"msg_{number}", "type": "message", "status": "in_progress", "content": []}
    item |= {"role": "assistant", **more}
    deltas = [
        _step("output_text.delta", content_index=0, delta=piece, logprobs=[], obfuscation="xx")
        for piece in pieces
    ]
    return _item(
        number,
        item,
        {"status": status, "content": [whole]},
        _step("content_part.added", content_index=0, part=_text("")),
        *deltas,
        *notes,
        _step("output_text.done", content_index=0, text=whole["text"], logprobs=[]),
        _step("content_part.done", content_index=0, part=whole),
    )


def refusal(number: int, text: str) -> list[_Event]:
    item = {"id": "msg_r", "type": "message", "status": "in_progress", "content": []}
    empty = {"type": "refusal", "refusal": ""}
    return _item(
        number,
        {**item, "role": "assistant"},
        {"status": "completed", "content": [{**empty, "refusal": text}]},
        _step("content_part.added", content_index=0, part=empty),
        _step("refusal.delta", content_index=0, delta=text),
        _step("refusal.done", content_index=0, refusal=text),
        _step("content_part.done", content_index=0, part={**empty, "refusal": text}),
    )


def call(number: int, name: str, *pieces: str) -> list[_Event]:
    whole = "".join(pieces)
    item = {"id": f"fc_{number}", "type": "function_call", "status": "in_progress"}
    item |= {"arguments": "", "call_id": f"call_{number}", "name": name}
    return _item(
        number,
        item,
        {"status": "completed", "arguments": whole},
        *(_step("function_call_arguments.delta", delta=piece) for piece in pieces),
        _step("function_call_arguments.done", arguments=whole),
    )


def custom_call(number: int, *pieces: str) -> list[_Event]:
    whole = "".join(pieces)
    item = {"id": "ctc_1", "type": "custom_tool_call", "status": "in_progress"}
    item |= {"call_id": "call_c", "input": "", "name": "sql"}
    return _item(
        number,
        item,
        {"status": "completed", "input": whole},
        *(_step("custom_tool_call_input.delta", delta=piece) for piece in pieces),
        _step("custom_tool_call_input.done", input=whole),
    )


def reasoning(number: int, *summaries: str, state: str = "") -> list[_Event]:
    item: _Event = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
    between = []
    for at, text in enumerate(summaries):
        part = {"type": "summary_text", "text": text}
        empty = {**part, "text": ""}
        between += [
            _step("reasoning_summary_part.added", summary_index=at, part=empty),
            _step("reasoning_summary_text.delta", summary_index=at, delta=text),
            _step("reasoning_summary_text.done", summary_index=at, text=text),
            _step("reasoning_summary_part.done", summary_index=at, part=part),
        ]
    done: _Event = {"summary": [{"type": "summary_text", "text": text} for text in summaries]}
    if state:
        item["encrypted_content"] = "partial"
        done["encrypted_content"] = state
    return _item(number, item, done, *between)


def raw_reasoning(number: int, text: str) -> list[_Event]:
    part = {"type": "reasoning_text", "text": text}
    return _item(
        number,
        {"id": "rs_raw", "type": "reasoning", "summary": []},
        {"content": [part]},
        _step("content_part.added", content_index=0, part={**part, "text": ""}),
        _step("reasoning_text.delta", content_index=0, delta=text),
        _step("reasoning_text.done", content_index=0, text=text),
        _step("content_part.done", content_index=0, part=part),
    )


def hosted(number: int, kind: str, item: _Event, done: _Event, *steps: _Event) -> list[_Event]:
    first = {"id": f"{kind}_{number}", "type": kind, "status": "in_progress", **item}
    return _item(number, first, {"status": "completed", **done}, *steps)


def image(number: int) -> list[_Event]:
    item = {"id": "ig_1", "type": "image_generation_call", "status": "in_progress", "result": None}
    drawn = {"status": "completed", "result": PIXEL, "size": "1024x1024", "quality": "low"}
    drawn |= {"output_format": "png", "background": "opaque", "revised_prompt": "a cat"}
    return _item(
        number,
        item,
        drawn,
        _step("image_generation_call.in_progress"),
        _step("image_generation_call.generating"),
        _step(
            "image_generation_call.partial_image",
            partial_image_index=0,
            partial_image_b64=PIXEL,
            output_format="png",
        ),
        _step("image_generation_call.completed"),
    )


SEARCH = hosted(
    1,
    "web_search_call",
    {},
    {"action": {"type": "search", "query": "weather"}},
    _step("web_search_call.in_progress"),
    _step("web_search_call.searching"),
    _step("web_search_call.completed"),
)
CODE = hosted(
    0,
    "code_interpreter_call",
    {"code": "", "container_id": "cntr_1", "outputs": []},
    {"code": "1+1", "outputs": []},
    _step("code_interpreter_call.in_progress"),
    _step("code_interpreter_call_code.delta", delta="1+"),
    _step("code_interpreter_call_code.delta", delta="1"),
    _step("code_interpreter_call_code.done", code="1+1"),
    _step("code_interpreter_call.interpreting"),
    _step("code_interpreter_call.completed"),
)
_LISTS = [
    hosted(
        number,
        "mcp_list_tools",
        {"server_label": "s", "tools": []},
        {"tools": [{"name": "t"}]},
        _step("mcp_list_tools.in_progress"),
        _step("mcp_list_tools.completed"),
    )
    for number in (0, 1)
]
# Recorded so: both are added before either goes on.
MCP = [_LISTS[0][0], _LISTS[1][0], *_LISTS[0][1:], *_LISTS[1][1:]]
NOTE = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2}

# Name -> the events of the items, the status, and why it is incomplete.
ANSWERS: dict[str, tuple[list[_Event], str, str]] = {
    "text": (message(0, "Hel", "lo"), "completed", ""),
    "two phases": (
        message(0, "a", phase="commentary") + message(1, "b", phase="final_answer"),
        "completed",
        "",
    ),
    "refusal": (refusal(0, "No."), "completed", ""),
    "calls": (call(0, "f", '{"a"', ":1}") + call(1, "f", '{"a":2}'), "completed", ""),
    "custom call": (custom_call(0, "select", " 1"), "completed", ""),
    "silent reasoning": (reasoning(0) + message(1, "Hi"), "completed", ""),
    "reasoning": (reasoning(0, "One.", "Two.", state="gAAA") + call(1, "f", "{}"), "completed", ""),
    "raw reasoning": (raw_reasoning(0, "hm") + message(1, "Hi"), "completed", ""),
    "web search": (
        reasoning(0) + SEARCH + message(2, "It rains.", annotations=[NOTE]),
        "completed",
        "",
    ),
    "code interpreter": (CODE + message(1, "2"), "completed", ""),
    "mcp": (MCP + message(2, "Hi"), "completed", ""),
    "image": (image(0) + message(1, "There."), "completed", ""),
    "cut": (message(0, "Hel", status="incomplete"), "incomplete", "max_output_tokens"),
    "filtered": (message(0, "Hel", status="incomplete"), "incomplete", "content_filter"),
}


def response(output: list[Any], status: str, why: str = "") -> _Event:
    return {
        "id": "resp_up",
        "object": "response",
        "created_at": 1_750_000_000,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": why} if why else None,
        "model": "gpt-5-2025-08-07",
        "output": output,
        "service_tier": "default",
        "usage": USAGE if status in ("completed", "incomplete") else None,
    }


def whole(name: str) -> _Event:
    """The answer as one object."""
    events, status, why = ANSWERS[name]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    done.sort(key=lambda event: int(event["output_index"]))
    return response([event["item"] for event in done], status, why)


def streamed(name: str) -> list[_Event]:
    """The answer as the events of its stream."""
    events, status, _ = ANSWERS[name]
    begun = response([], "in_progress")
    numbered = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *events,
        {"type": f"response.{status}", "response": whole(name)},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(numbered)]


def sse(events: list[_Event]) -> bytes:
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events
    ).encode()
