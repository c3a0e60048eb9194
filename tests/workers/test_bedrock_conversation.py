from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.v1.content_pb2 import Message, Part
from tests.workers.anthropic_hub import (
    CACHED,
    PDF,
    PNG,
    C,
    assistant,
    called,
    request,
    result,
    system,
    text,
    tool,
    user,
)
from tests.workers.bedrock_hub import (
    ADAPTIVE,
    CLAUDE,
    CLAUDE_4,
    LLAMA,
    MISTRAL,
    NOVA,
    PALMYRA,
    QWEN,
    body,
    refusal,
    signed,
    turns,
)

IMAGE = C.InlineData(media_type="image/jpg", data=PNG)
PICTURE = {"image": {"format": "jpeg", "source": {"bytes": base64.b64encode(PNG).decode()}}}
POINT = {"cachePoint": {"type": "default"}}
POINT_1H = {"cachePoint": {"type": "default", "ttl": "1h"}}


def image(**source: Any) -> Part:
    return Part(image=C.Image(**source))


def file(data: bytes, media_type: str = "", filename: str = "", **more: Any) -> Part:
    inline = C.InlineData(media_type=media_type, data=data)
    return Part(file=C.File(inline=inline, filename=filename), **more)


def use(call_id: str, given: Any, name: str = "f") -> Any:
    return {"toolUse": {"toolUseId": call_id, "name": name, "input": given}}


def answer(call_id: str, *content: Any, status: str = "success") -> Any:
    return {"toolResult": {"toolUseId": call_id, "content": [*content], "status": status}}


CONVERSATIONS: list[tuple[str, str, list[Message], Any]] = [
    (
        "the same speaker twice is one turn, and blank text is left out",
        CLAUDE,
        [user("a"), user(" \n"), user("b"), assistant(""), user("c", name="ann")],
        [("user", [{"text": "a"}, {"text": "b"}, {"text": "ann: c"}])],
    ),
    (
        "results come first, in one turn with what else is said",
        CLAUDE,
        [
            user("q"),
            assistant("hm", called("1", '{"a":1}'), called("2", "")),
            result("1", "one"),
            user("and?", image(inline=IMAGE)),
            result("2", "two", is_error=True),
        ],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [{"text": "hm"}, use("1", {"a": 1}), use("2", {})]),
            (
                "user",
                [
                    answer("1", {"text": "one"}),
                    answer("2", {"text": "two"}, status="error"),
                    {"text": "and?"},
                    PICTURE,
                ],
            ),
        ],
    ),
    (
        "ids that Bedrock refuses or has seen are replaced, in the results too",
        CLAUDE,
        [
            user("q"),
            assistant(called("a|b" * 30)),
            result("a|b" * 30, "one"),
            assistant(called("a|b" * 30)),
            result("a|b" * 30, "two"),
        ],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use(("a_b" * 30)[:64], {})]),
            ("user", [answer(("a_b" * 30)[:64], {"text": "one"})]),
            ("assistant", [use(("a_b" * 30)[:62] + "_2", {})]),
            ("user", [answer(("a_b" * 30)[:62] + "_2", {"text": "two"})]),
        ],
    ),
    (
        "arguments that are no object are kept as text",
        CLAUDE,
        [user("q"), assistant(called("1", '{"a":')), result("1", "x")],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {"_raw": '{"a":'})]),
            ("user", [answer("1", {"text": "x"})]),
        ],
    ),
    (
        "a result alone in its turn, where the model insists",
        LLAMA,
        [user("q"), assistant(called("1")), result("1", "x"), user("and?")],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {})]),
            ("user", [answer("1", {"text": "x"})]),
            ("assistant", [{"text": "."}]),
            ("user", [{"text": "and?"}]),
        ],
    ),
    (
        "Claude takes no document beside a result",
        CLAUDE,
        [
            user("q"),
            assistant(called("1")),
            result("1", "x"),
            user("read", file(PDF, filename="a.pdf")),
        ],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {})]),
            ("user", [answer("1", {"text": "x"})]),
            ("assistant", [{"text": "."}]),
            (
                "user",
                [
                    {"text": "read"},
                    {
                        "document": {
                            "format": "pdf",
                            "name": "a",
                            "source": {"bytes": base64.b64encode(PDF).decode()},
                        }
                    },
                ],
            ),
        ],
    ),
    (
        "no status for Palmyra",
        PALMYRA,
        [user("q"), assistant(called("1")), result("1", "x")],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {})]),
            ("user", [{"toolResult": {"toolUseId": "1", "content": [{"text": "x"}]}}]),
        ],
    ),
    (
        "results as JSON for Mistral, where they are objects",
        MISTRAL,
        [
            user("q"),
            assistant(called("1"), called("2")),
            result("1", '{"a":1}'),
            result("2", "[1]"),
        ],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {}), use("2", {})]),
            ("user", [answer("1", {"json": {"a": 1}}), answer("2", {"text": "[1]"})]),
        ],
    ),
    (
        "an image within a result",
        NOVA,
        [user("q"), assistant(called("1")), result("1", "x", image(inline=IMAGE))],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {})]),
            ("user", [answer("1", {"text": "x"}, PICTURE)]),
        ],
    ),
    (
        "an image beside the result, where it may not be within",
        QWEN,
        [user("q"), assistant(called("1")), result("1", image(inline=IMAGE))],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [use("1", {})]),
            ("user", [answer("1", {"text": "The result follows."}), PICTURE]),
        ],
    ),
    (
        "models that have to be spoken to first",
        NOVA,
        [assistant("hello"), user("q")],
        [
            ("user", [{"text": "Continue."}]),
            ("assistant", [{"text": "hello"}]),
            ("user", [{"text": "q"}]),
        ],
    ),
    (
        "models that may begin",
        CLAUDE,
        [assistant("hello"), user("q")],
        [("assistant", [{"text": "hello"}]), ("user", [{"text": "q"}])],
    ),
    (
        "an answer that Claude goes on with, without the blank that it would refuse",
        CLAUDE,
        [user("q"), assistant("It is ")],
        [("user", [{"text": "q"}]), ("assistant", [{"text": "It is"}])],
    ),
    (
        "an answer that the model would refuse to go on with",
        ADAPTIVE,
        [user("q"), assistant("It is")],
        [
            ("user", [{"text": "q"}]),
            ("assistant", [{"text": "It is"}]),
            ("user", [{"text": "Continue."}]),
        ],
    ),
    (
        "a document needs text, and a name that is allowed and its own",
        NOVA,
        [user(file(b"a,b", "text/csv", "a_(1)!.csv"), file(b"c", "text/csv", "a (1).csv"))],
        [
            (
                "user",
                [
                    {"text": "See the attached document."},
                    *(
                        {
                            "document": {
                                "format": "csv",
                                "name": name,
                                "source": {"bytes": base64.b64encode(data).decode()},
                            }
                        }
                        for name, data in (("a (1)", b"a,b"), ("a (1) 2", b"c"))
                    ),
                ],
            )
        ],
    ),
    (
        "signed thoughts go back first, others stay away",
        CLAUDE,
        [
            user("q"),
            assistant(
                "a",
                signed("hm"),
                signed("theirs", issuer="anthropic_messages"),
                Part(reasoning=C.Reasoning(text="unsigned")),
                called("1"),
            ),
            result("1", "x"),
        ],
        [
            ("user", [{"text": "q"}]),
            (
                "assistant",
                [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                    {"text": "a"},
                    use("1", {}),
                ],
            ),
            ("user", [answer("1", {"text": "x"})]),
        ],
    ),
    (
        "models that take no thoughts back",
        NOVA,
        [user("q"), assistant(signed("hm"), "a"), user("r")],
        [("user", [{"text": "q"}]), ("assistant", [{"text": "a"}]), ("user", [{"text": "r"}])],
    ),
]


@pytest.mark.parametrize(
    ("model", "messages", "expected"),
    [pytest.param(model, m, e, id=name) for name, model, m, e in CONVERSATIONS],
)
def test_conversations(model: str, messages: list[Message], expected: Any) -> None:
    assert turns(request(*messages), model) == expected


def test_system_messages_are_the_system_prompt_wherever_they_stand() -> None:
    developer = Message(role=C.ROLE_DEVELOPER, parts=[text("b")])
    sent = body(request(system("a"), developer, user("q"), system("c"), user("r")))
    assert sent["system"] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert [turn["role"] for turn in sent["messages"]] == ["user"]


def test_a_last_system_message_asks_for_the_answer() -> None:
    sent = body(request(user("q"), assistant("a"), system("go")))
    assert "system" not in sent
    assert sent["messages"][-1]["content"] == [{"text": "<system>\ngo\n</system>"}]


def test_a_lone_system_prompt_is_the_question() -> None:
    assert turns(request(system("q"))) == [("user", [{"text": "q"}])]


def test_nothing_to_say_is_refused() -> None:
    assert refusal(request(user(" "))).param == "messages"


def test_redacted_thoughts_and_blocks_of_bedrocks_own_go_back_verbatim() -> None:
    hidden = C.Blob(issuer="bedrock_converse", kind="redacted_content", data=b"c2VjcmV0")
    block = {"toolUse": {"toolUseId": "t", "name": "nova_code_interpreter", "input": {}}}
    own = C.Opaque(type="toolUse", json=json.dumps(block).encode(), issuer="bedrock_converse")
    theirs = C.Opaque(type="x", json=b"{}", issuer="anthropic_messages")
    said = assistant(
        Part(reasoning=C.Reasoning(blobs=[hidden])), Part(opaque=own), Part(opaque=theirs), "a"
    )
    assert turns(request(user("q"), said, user("r")))[1][1] == [
        {"reasoningContent": {"redactedContent": "c2VjcmV0"}},
        block,
        {"text": "a"},
    ]


@pytest.mark.parametrize(
    ("model", "point"), [(CLAUDE, POINT_1H), (CLAUDE_4, POINT), (NOVA, POINT), (LLAMA, None)]
)
def test_cache_marks_become_points_of_the_kind_that_the_model_takes(model: str, point: Any) -> None:
    asked = request(
        system(text("s", **CACHED)),
        user(text("q", **CACHED), "r"),
        tools=[tool("f"), tool("g")],
    )
    asked.generate.tools[0].cache_control = CACHED["cache_control"]
    sent = body(asked, model)
    points = [point] if point else []
    assert sent["system"] == [{"text": "s"}, *points]
    assert sent["messages"][0]["content"] == [{"text": "q"}, *points, {"text": "r"}]
    names = [t.get("toolSpec", {}).get("name") for t in sent["toolConfig"]["tools"]]
    assert names == (["f", None, "g"] if point else ["f", "g"])


def test_a_point_stands_behind_something_that_is_no_document() -> None:
    parts = (text("", **CACHED), "q", file(b"x", "text/plain", "a.txt", **CACHED))
    kinds = [next(iter(block)) for block in turns(request(user(*parts)))[0][1]]
    assert kinds == ["text", "cachePoint", "document"]


def test_only_the_last_four_points_are_kept() -> None:
    marked = [user(text(str(n), **CACHED)) for n in range(5)]
    asked = request(system(text("s", **CACHED)), *marked)
    sent = body(asked)
    assert sent["system"] == [{"text": "s"}]
    kinds = [next(iter(block)) for block in sent["messages"][0]["content"]]
    assert kinds == ["text", *["text", "cachePoint"] * 4]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (image(inline=C.InlineData(data=PNG)), "png"),
        (image(inline=C.InlineData(media_type="image/webp", data=b"x")), "webp"),
        (file(b"x", "text/markdown"), "md"),
        (file(b"x", "application/json"), "txt"),
        (file(b"x", "text/x-rust"), "txt"),
        (file(b"x", "", "report.xlsx"), "xlsx"),
        (file(PDF), "pdf"),
        (file(PNG, "image/png"), "png"),
        (Part(audio=C.Audio(inline=C.InlineData(data=b"x"), format="mp3")), "mp3"),
    ],
)
def test_media_are_named_by_format(part: Part, expected: str) -> None:
    block = turns(request(user("q", part)), NOVA)[0][1][1]
    assert next(iter(block.values()))["format"] == expected


def test_media_may_lie_in_s3() -> None:
    block = turns(request(user(image(url="s3://b/a.jpg"))), NOVA)[0][1][0]
    assert block == {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/a.jpg"}}}}


@pytest.mark.parametrize(
    "part",
    [
        image(url="https://example.com/a.png"),
        image(inline=C.InlineData(media_type="image/tiff", data=b"x")),
        image(file_id="f"),
        file(b"\xff\x00", "application/zip"),
        file(b"\xff\x00"),
        Part(file=C.File(file_id="f")),
        Part(audio=C.Audio(inline=C.InlineData(data=b"x"), format="amr")),
        Part(opaque=C.Opaque(type="video_url", json=b"{}", issuer="openai_chat")),
    ],
    ids=["address", "tiff", "stored", "zip", "unknown", "stored file", "audio", "unknown kind"],
)
def test_what_bedrock_cannot_read_is_refused_where_it_stands(part: Part) -> None:
    assert refusal(request(user("q", part))).param == "messages[0].content[1]"


def test_system_prompts_are_text() -> None:
    assert refusal(request(system(image(inline=IMAGE)))).param == "messages[0]"
