from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from broker.v1.content_pb2 import Message, Part
from tests.workers.anthropic_hub import (
    CACHED,
    OLD,
    PDF,
    PNG,
    C,
    G,
    assistant,
    body,
    called,
    refusal,
    request,
    result,
    system,
    text,
    thought,
    user,
)

CONVERSATIONS: list[tuple[str, list[Message], Any, Any]] = [
    (
        "leading system and developer messages become the system prompt, marks kept",
        [
            system(text("a", **CACHED), "b"),
            Message(role=C.ROLE_DEVELOPER, parts=[text("c")]),
            user("q"),
        ],
        [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "text", "text": "b"},
            {"type": "text", "text": "c"},
        ],
        [("user", [{"type": "text", "text": "q"}])],
    ),
    (
        "the same speaker twice is one turn, and blank text is left out",
        [user("a"), user("  \n"), user("b"), assistant(""), user("c")],
        None,
        [
            (
                "user",
                [
                    {"type": "text", "text": "a"},
                    {"type": "text", "text": "b"},
                    {"type": "text", "text": "c"},
                ],
            )
        ],
    ),
    (
        "all results of a turn come in one user turn before anything else said",
        [
            user("q"),
            assistant(called("1"), called("2")),
            result("1", "one"),
            user("and?"),
            result("2", "two", is_error=True),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            (
                "assistant",
                [
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                    {"type": "tool_use", "id": "2", "name": "f", "input": {}},
                ],
            ),
            (
                "user",
                [
                    {"type": "tool_result", "tool_use_id": "1", "content": "one"},
                    {"type": "tool_result", "tool_use_id": "2", "content": "two", "is_error": True},
                    {"type": "text", "text": "and?"},
                ],
            ),
        ],
    ),
    (
        "ids that Claude refuses or has seen are replaced, in the results too",
        [
            user("q"),
            assistant(called("call.0|x")),
            result("call.0|x", "one"),
            assistant(called("call.0|x")),
            result("call.0|x", "two"),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            ("assistant", [{"type": "tool_use", "id": "call_0_x", "name": "f", "input": {}}]),
            ("user", [{"type": "tool_result", "tool_use_id": "call_0_x", "content": "one"}]),
            ("assistant", [{"type": "tool_use", "id": "call_0_x_2", "name": "f", "input": {}}]),
            ("user", [{"type": "tool_result", "tool_use_id": "call_0_x_2", "content": "two"}]),
        ],
    ),
    (
        "a legacy function call and its result get the same minted id",
        [
            user("q"),
            assistant(called("", name="now", legacy_function=True)),
            result("", "noon", name="now", legacy_function=True),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            ("assistant", [{"type": "tool_use", "id": "call", "name": "now", "input": {}}]),
            ("user", [{"type": "tool_result", "tool_use_id": "call", "content": "noon"}]),
        ],
    ),
    (
        "results may hold images, and be empty",
        [
            user("q"),
            assistant(called("1"), called("2")),
            result("1", "see", Part(image=C.Image(url="https://x/y.png"))),
            result("2"),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            (
                "assistant",
                [
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                    {"type": "tool_use", "id": "2", "name": "f", "input": {}},
                ],
            ),
            (
                "user",
                [
                    {
                        "type": "tool_result",
                        "tool_use_id": "1",
                        "content": [
                            {"type": "text", "text": "see"},
                            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                        ],
                    },
                    {"type": "tool_result", "tool_use_id": "2"},
                ],
            ),
        ],
    ),
    (
        "thinking goes back verbatim and first; what others issued stays out",
        [
            user("q"),
            assistant(
                thought("not ours", issuer="openai_chat"),
                "so",
                thought("hm "),
                Part(
                    reasoning=C.Reasoning(
                        blobs=[
                            C.Blob(
                                issuer="anthropic_messages", kind="redacted_thinking", data=b"xyz"
                            )
                        ]
                    )
                ),
                called("1"),
            ),
            result("1", "r"),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            (
                "assistant",
                [
                    {"type": "thinking", "thinking": "hm ", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "so"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                ],
            ),
            ("user", [{"type": "tool_result", "tool_use_id": "1", "content": "r"}]),
        ],
    ),
    (
        "thinking between tool calls stays where it was",
        [
            user("q"),
            assistant(thought("a"), called("1"), thought("b"), "t"),
            user("q2"),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            (
                "assistant",
                [
                    {"type": "thinking", "thinking": "a", "signature": "sig"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                    {"type": "thinking", "thinking": "b", "signature": "sig"},
                    {"type": "text", "text": "t"},
                ],
            ),
            ("user", [{"type": "text", "text": "q2"}]),
        ],
    ),
    (
        "items of server tools go back whole, those of other providers do not",
        [
            user("q"),
            assistant(
                Part(
                    opaque=C.Opaque(
                        type="server_tool_use",
                        json=b'{"type":"server_tool_use","id":"s","name":"web_search","input":{}}',
                        issuer="anthropic_messages",
                    )
                ),
                Part(opaque=C.Opaque(type="web_search_call", json=b"{}", issuer="openai")),
                "found",
            ),
            user("q2"),
        ],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            (
                "assistant",
                [
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "text", "text": "found"},
                ],
            ),
            ("user", [{"type": "text", "text": "q2"}]),
        ],
    ),
    (
        "a refusal is what the assistant said; a user's name stands before the text",
        [user("a", name="Ann"), assistant(Part(refusal=C.Refusal(text="no"))), user("b")],
        None,
        [
            ("user", [{"type": "text", "text": "Ann: a"}]),
            ("assistant", [{"type": "text", "text": "no"}]),
            ("user", [{"type": "text", "text": "b"}]),
        ],
    ),
    (
        "a system prompt alone is the question",
        [system("Say hi.")],
        None,
        [("user", [{"type": "text", "text": "Say hi."}])],
    ),
    (
        "a late system message joins the system prompt",
        [system("a"), user("q"), assistant("r"), user("q2"), system("b")],
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        [
            ("user", [{"type": "text", "text": "q"}]),
            ("assistant", [{"type": "text", "text": "r"}]),
            ("user", [{"type": "text", "text": "q2"}]),
        ],
    ),
    (
        "a system message after the answer asks for the next one",
        [user("q"), assistant("r"), system("b")],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            ("assistant", [{"type": "text", "text": "r"}]),
            ("user", [{"type": "text", "text": "<system>\nb\n</system>"}]),
        ],
    ),
    (
        "a turn to continue may not end in blanks",
        [user("q"), assistant("The answer is ")],
        None,
        [
            ("user", [{"type": "text", "text": "q"}]),
            ("assistant", [{"type": "text", "text": "The answer is"}]),
        ],
    ),
]


@pytest.mark.parametrize(
    ("messages", "prompt", "turns"),
    [pytest.param(*case[1:], id=case[0]) for case in CONVERSATIONS],
)
def test_a_conversation_becomes_prompt_and_turns(
    messages: list[Message], prompt: Any, turns: Any
) -> None:
    sent = body(request(*messages))
    assert sent.get("system") == prompt
    assert [(turn["role"], turn["content"]) for turn in sent["messages"]] == turns


def test_a_model_that_honours_system_turns_gets_them_before_the_answer_they_govern() -> None:
    asked = request(system("a"), user("q"), system("b"), user("q2"), assistant("r"), system("c"))
    sent = body(asked, "claude-opus-4-8")
    said = [(turn["role"], [b["text"] for b in turn["content"]]) for turn in sent["messages"]]
    assert [block["text"] for block in sent["system"]] == ["a"]
    assert said == [
        ("user", ["q", "q2"]),
        ("system", ["b"]),
        ("assistant", ["r"]),
        ("user", ["Continue."]),
        ("system", ["c"]),
    ]


def test_a_model_that_continues_no_turn_is_asked_to_go_on() -> None:
    sent = body(request(user("q"), assistant("r ")), "claude-opus-4-6")
    assert sent["messages"][-1] == {
        "role": "user",
        "content": [{"type": "text", "text": "Continue."}],
    }


def test_a_model_that_cannot_think_gets_no_thinking_back() -> None:
    sent = body(request(user("q"), assistant(thought("a"), "r"), user("q2")), OLD)
    assert sent["messages"][1]["content"] == [{"type": "text", "text": "r"}]


def test_signed_thoughts_that_were_run_together_are_left_out() -> None:
    mixed = thought("ab", "1")
    mixed.reasoning.blobs.add(issuer="anthropic_messages", kind="signature", data=b"2")
    sent = body(request(user("q"), assistant(mixed, "r"), user("q2")))
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["text"]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (" ", {}),
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ('{"a": "bro', {"_raw": '{"a": "bro'}),
        ("[1]", {"_raw": "[1]"}),
        ("null", {"_raw": "null"}),
    ],
)
def test_arguments_of_any_kind_become_an_object(arguments: str, given: Any) -> None:
    sent = body(request(user("q"), assistant(called("1", arguments)), result("1", "r")))
    assert sent["messages"][1]["content"][0]["input"] == given


MEDIA: list[tuple[str, Part, Any]] = [
    (
        "an inline image",
        Part(image=C.Image(inline=C.InlineData(media_type="image/png", data=PNG))),
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": base64.b64encode(PNG).decode(),
            },
        },
    ),
    (
        "an image without its type",
        Part(image=C.Image(inline=C.InlineData(data=b"\xff\xd8\xff\xe0"))),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A=="},
        },
    ),
    (
        "an image by address",
        Part(image=C.Image(url="https://x/y.png", detail="high")),
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
    ),
    (
        "a PDF",
        Part(
            file=C.File(
                inline=C.InlineData(media_type="application/pdf", data=PDF), filename="a.pdf"
            ),
            extra={"citations": b'{"enabled":true}'},
        ),
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": base64.b64encode(PDF).decode(),
            },
            "title": "a.pdf",
            "citations": {"enabled": True},
        },
    ),
    (
        "a PDF without its type",
        Part(file=C.File(inline=C.InlineData(data=PDF))),
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": base64.b64encode(PDF).decode(),
            },
        },
    ),
    (
        "a text file, marked for the cache",
        Part(
            file=C.File(
                inline=C.InlineData(media_type="text/markdown", data="# é".encode()),
                filename="a.md",
            ),
            **CACHED,
        ),
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "# é"},
            "title": "a.md",
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        },
    ),
    (
        "a file by address",
        Part(file=C.File(url="https://x/y.pdf")),
        {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
    ),
    (
        "an uploaded file",
        Part(file=C.File(file_id="file_1")),
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ),
    (
        "an image sent as a file",
        Part(file=C.File(inline=C.InlineData(media_type="image/gif", data=b"GIF89a"))),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"},
        },
    ),
    (
        "what was said in an earlier audio answer",
        Part(audio=C.Audio(id="audio_1", transcript="hello")),
        {"type": "text", "text": "hello"},
    ),
]


@pytest.mark.parametrize(("part", "block"), [pytest.param(*case[1:], id=case[0]) for case in MEDIA])
def test_media_become_blocks(part: Part, block: Any) -> None:
    assert body(request(user(part)))["messages"][0]["content"] == [block]


# fmt: off
REFUSED: list[tuple[str, Callable[[], G.Request], str, str | None]] = [
    ("audio input", lambda: request(user("a", Part(audio=C.Audio(inline=C.InlineData(data=b"RIFF"))))), "unsupported_parameter", "messages[0].content[1]"),
    ("audio output", lambda: request(modalities=["text", "audio"]), "unsupported_parameter", "modalities"),
    ("several answers", lambda: request(n=2), "unsupported_parameter", "n"),
    ("a bitmap", lambda: request(system("s"), user(Part(image=C.Image(inline=C.InlineData(media_type="image/bmp", data=b"BM"))))), "invalid_request", "messages[1].content[0]"),
    ("a spreadsheet", lambda: request(user(Part(file=C.File(inline=C.InlineData(media_type="application/xls", data=b"\xd0"))))), "invalid_request", "messages[0].content[0]"),
    ("an image in the system prompt", lambda: request(system(Part(image=C.Image(url="https://x"))), user("q")), "invalid_request", "messages[0]"),
    ("nothing but blanks", lambda: request(user(" ")), "invalid_request", "messages"),
    ("a cache mark that is not JSON", lambda: request(user(text("a", cache_control=b"{"))), "invalid_request", "messages[0].content[0].cache_control"),
    ("a schema that is not JSON", lambda: request(tools=[G.Tool(function=G.FunctionTool(name="f", parameters=b"{"))]), "invalid_request", "tools[0].function.parameters"),
    ("a hosted tool that Claude lacks", lambda: request(tools=[G.Tool(hosted=G.HostedTool(type="file_search", json=b"{}"))]), "unsupported_parameter", "tools[0]"),
    ("a grammar for the answer", lambda: request(response_format=G.ResponseFormat(kind=G.ResponseFormat.KIND_OTHER)), "unsupported_parameter", "response_format.type"),
    ("an effort that nobody knows", lambda: request(reasoning=G.ReasoningOptions(effort="huge")), "invalid_request", "reasoning_effort"),
    ("thinking of a wrong type", lambda: request(extra={"thinking": 1}), "invalid_request", "thinking"),
]
# fmt: on


@pytest.mark.parametrize(
    ("asked", "reason", "param"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_what_would_change_the_answer_is_refused_and_named(
    asked: Callable[[], G.Request], reason: str, param: str
) -> None:
    error = refusal(asked())
    assert (error.reason, error.param) == (reason, param)
