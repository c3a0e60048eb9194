"""Messages as Gemini's contents: roles, results of functions, signatures, media."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.v1 import content_pb2
from broker.v1.content_pb2 import Part
from tests.workers.anthropic_hub import (
    PDF,
    PNG,
    assistant,
    called,
    request,
    result,
    system,
    text,
    tool,
    user,
)
from tests.workers.gemini_hub import FLASH, GEMINI, NEW, VERTEX, body, refusal

C = content_pb2
SENTINEL = base64.b64encode(b"skip_thought_signature_validator").decode()


def contents(*messages: Any, model: str = FLASH, **more: Any) -> Any:
    return body(request(*messages), model, **more)["contents"]


def said(role: str, *parts: Any) -> Any:
    return {"role": role, "parts": [{"text": p} if isinstance(p, str) else p for p in parts]}


# --- roles -------------------------------------------------------------------------------------


def test_only_what_leads_is_the_system_instruction() -> None:
    developer = C.Message(role=C.ROLE_DEVELOPER, parts=[text("b")])
    written = body(request(system("a"), developer, user("hi"), assistant("yo"), system("c")))
    assert written["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert written["contents"] == [
        said("user", "hi"),
        said("model", "yo"),
        said("user", "<system>\nc\n</system>"),
    ]


def test_a_lone_system_message_is_the_question() -> None:
    written = body(request(system("a")))
    assert written == {"contents": [said("user", "a")]}


@pytest.mark.parametrize(
    "model", ["gemma-3-27b-it", "gemini-2.5-flash-image", "gemini-2.5-pro-tts"]
)
def test_models_without_instructions_hear_them_from_the_user(model: str) -> None:
    written = body(request(system("a"), assistant("b"), user("hi")), model)
    assert "systemInstruction" not in written
    assert written["contents"] == [said("model", "b"), said("user", "a", "hi")]


def test_neighbours_of_one_role_are_one_turn() -> None:
    found = contents(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))
    assert found == [said("user", "a", "b"), said("model", "c", "d"), said("user", "e")]


def test_the_name_of_a_user_stands_before_what_he_says() -> None:
    assert contents(user("hi", name="Ann")) == [said("user", "Ann: hi")]


def test_empty_text_is_left_out_unless_it_is_all_that_a_user_says() -> None:
    assert contents(user("", "a"), assistant(""), user("b")) == [said("user", "a", "b")]
    assert contents(user("")) == [said("user", "")]


def test_no_content_at_all_is_refused() -> None:
    assert refusal(request(assistant(""))).param == "messages"


# --- calls and results -------------------------------------------------------------------------


def responses(content: Any) -> list[Any]:
    return [part["functionResponse"] for part in content["parts"]]


def test_a_result_names_the_function_that_its_call_named() -> None:
    found = contents(user("?"), assistant(called("x", '{"a":1}', "add")), result("x", "2"))
    assert found[1] == said("model", {"functionCall": {"name": "add", "args": {"a": 1}}})
    assert found[2]["role"] == "user"
    assert responses(found[2]) == [{"name": "add", "response": {"output": "2"}}]


def test_results_are_one_content_in_the_order_of_their_calls_and_by_themselves() -> None:
    calls = assistant(called("x", name="f"), called("y", name="g"), called("z", name="f"))
    late = user("and?")
    found = contents(user("?"), calls, result("z", "3"), late, result("x", "1"), result("y", "2"))
    assert [r["response"]["output"] for r in responses(found[2])] == ["1", "2", "3"]
    assert [r["name"] for r in responses(found[2])] == ["f", "g", "f"]
    assert found[3:] == [said("user", "and?")]


def test_ids_are_sent_from_3_on_and_are_unique_though_callers_repeat_them() -> None:
    messages = [
        user("?"),
        assistant(called("c")),
        result("c", "1"),
        assistant(called("c")),
        result("c", "2"),
    ]
    found = contents(*messages, model=NEW)
    calls = [part["functionCall"]["id"] for content in found[1::2] for part in content["parts"]]
    answers = [response["id"] for content in found[2::2] for response in responses(content)]
    assert calls == answers == ["c", "c_2"]
    assert "id" not in json.dumps(contents(*messages))


def test_a_legacy_function_is_paired_by_its_name() -> None:
    call = Part(tool_call=C.ToolCall(name="add", arguments=b"{}", legacy_function=True))
    answer = C.ToolResult(name="add", legacy_function=True, parts=[text("2")])
    function = C.Message(role=C.ROLE_TOOL, parts=[Part(tool_result=answer)])
    found = contents(user("?"), assistant(call), function)
    assert responses(found[2]) == [{"name": "add", "response": {"output": "2"}}]


def test_a_result_without_a_call_is_refused() -> None:
    found = refusal(request(user("?"), result("x", "2")))
    assert (found.reason, found.param) == ("invalid_request", "messages[1].tool_call_id")


@pytest.mark.parametrize(
    ("text_of_result", "response"),
    [
        ("plain", {"output": "plain"}),
        ("", {"output": ""}),
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", {"output": [1, 2]}),
        ("{broken", {"output": "{broken"}),
        ("5", {"output": "5"}),
    ],
)
def test_a_result_is_an_object_or_the_output_of_one(text_of_result: str, response: Any) -> None:
    found = contents(user("?"), assistant(called("x")), result("x", text_of_result))
    assert responses(found[2])[0]["response"] == response


def test_a_failed_result_is_an_error() -> None:
    found = contents(user("?"), assistant(called("x")), result("x", "no", is_error=True))
    assert responses(found[2])[0]["response"] == {"error": "no"}


def test_an_image_in_a_result_is_within_it_from_3_on_and_beside_it_before() -> None:
    image = Part(image=C.Image(inline=C.InlineData(media_type="image/png", data=PNG)))
    messages = (user("?"), assistant(called("x")), result("x", "see", image))
    shown = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}
    new = contents(*messages, model=NEW)
    assert responses(new[2])[0]["parts"] == [shown]
    assert len(new) == 3
    old = contents(*messages)
    assert "parts" not in responses(old[2])[0]
    assert old[3] == said("user", shown)


@pytest.mark.parametrize(
    ("arguments", "args"), [("", {}), ("{}", {}), ("[1", {"_raw": "[1"}), ("7", {"_raw": "7"})]
)
def test_arguments_are_an_object_whatever_the_model_wrote(arguments: str, args: Any) -> None:
    found = contents(user("?"), assistant(called("x", arguments)), result("x", "1"))
    assert found[1]["parts"][0]["functionCall"]["args"] == args


def test_the_free_text_of_a_custom_tool_is_its_one_argument() -> None:
    call = called("x", "print(1)", kind=C.TOOL_KIND_CUSTOM)
    found = contents(user("?"), assistant(call), result("x", "1"))
    assert found[1]["parts"][0]["functionCall"]["args"] == {"input": "print(1)"}


# --- signatures --------------------------------------------------------------------------------


def signed(kind: str, signature: str = "c2ln", issuer: str = "gemini") -> Part:
    blob = C.Blob(issuer=issuer, kind=kind, data=signature.encode())
    return Part(reasoning=C.Reasoning(blobs=[blob]))


def test_a_signature_goes_back_on_the_call_that_it_came_with() -> None:
    answer = assistant("Hm.", signed("function_call"), called("x", name="f"), called("y", name="g"))
    first, second, third = contents(user("?"), answer, result("x", "1"), model=NEW)[1]["parts"]
    assert first == {"text": "Hm."}
    assert second["thoughtSignature"] == "c2ln"
    assert "thoughtSignature" not in third


def test_text_is_signed_as_it_was() -> None:
    answer = assistant("a", signed("text", "dDE="), "b", signed("empty_text", "dDI="))
    assert contents(user("?"), answer, user("!"))[1]["parts"] == [
        {"text": "a"},
        {"text": "b", "thoughtSignature": "dDE="},
        {"text": "", "thoughtSignature": "dDI="},
    ]


def test_thoughts_themselves_stay_behind() -> None:
    thought = Part(reasoning=C.Reasoning(text="hm", summary=["hm"]))
    assert contents(user("?"), assistant(thought, "a"), user("!"))[1] == said("model", "a")


@pytest.mark.parametrize("issuer", ["vertex_ai", "anthropic_messages"])
def test_a_signature_of_another_issuer_gives_way_to_the_one_that_is_always_taken(
    issuer: str,
) -> None:
    answer = assistant(signed("function_call", issuer=issuer), called("x"), called("y"))
    parts = contents(user("?"), answer, result("x", "1"), model=NEW)[1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [SENTINEL, None]


def test_vertex_takes_its_own_signatures() -> None:
    answer = assistant(signed("function_call", issuer="vertex_ai"), called("x"))
    found = contents(user("?"), answer, result("x", "1"), model=NEW, at=VERTEX)
    assert found[1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_before_3_no_call_needs_a_signature() -> None:
    found = contents(user("?"), assistant(called("x")), result("x", "1"))
    assert "thoughtSignature" not in found[1]["parts"][0]


def test_a_signature_in_googles_own_place_is_taken() -> None:
    carried = {"extra_content": b'{"google":{"thought_signature":"c2ln"}}'}
    call = called("x")
    call.extra.update(carried)
    found = contents(user("?"), assistant(call), result("x", "1"), model=NEW)
    assert found[1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_a_signature_whose_part_did_not_come_back_is_forgotten() -> None:
    found = contents(
        user("?"), assistant(signed("function_call"), "a"), user("!"), assistant(called("x"))
    )
    assert "c2ln" not in json.dumps(found)


def test_parts_of_googles_own_tools_come_back_as_they_were_to_their_issuer_alone() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "c2ln"}
    opaque = C.Opaque(type="executableCode", json=json.dumps(code).encode(), issuer="gemini")
    messages = (user("?"), assistant(Part(opaque=opaque), "1"), user("!"))
    assert contents(*messages)[1] == said("model", code, "1")
    assert contents(*messages, at=VERTEX)[1] == said("model", "1")


# --- media -------------------------------------------------------------------------------------


def inline(kind: str, data: bytes) -> Any:
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


@pytest.mark.parametrize(
    ("given", "data", "sent"),
    [
        ("image/png", PNG, "image/png"),
        ("image/jpg", b"x", "image/jpeg"),
        ("image/gif", b"x", "image/gif"),
        ("", PNG, "image/png"),
        ("application/octet-stream", b"RIFF1234WEBP", "image/webp"),
    ],
)
def test_an_image_goes_along_with_its_type(given: str, data: bytes, sent: str) -> None:
    image = C.Image(inline=C.InlineData(media_type=given, data=data))
    assert contents(user(Part(image=image))) == [said("user", inline(sent, data))]


def test_sound_and_files_go_along_with_theirs() -> None:
    sound = Part(audio=C.Audio(inline=C.InlineData(data=b"x"), format="mp3"))
    pdf = Part(file=C.File(inline=C.InlineData(data=PDF)))
    notes = Part(file=C.File(inline=C.InlineData(data=b"x"), filename="notes.CSV"))
    assert contents(user(sound, pdf, notes)) == [
        said(
            "user",
            inline("audio/mp3", b"x"),
            inline("application/pdf", PDF),
            inline("text/csv", b"x"),
        )
    ]


YOUTUBE = "https://www.youtube.com/watch?v=1"
FILE = "https://generativelanguage.googleapis.com/v1beta/files/abc"


@pytest.mark.parametrize(
    ("part", "at_vertex", "data"),
    [
        (Part(image=C.Image(url="gs://b/a.png")), True, ("gs://b/a.png", "image/png")),
        (Part(file=C.File(url=YOUTUBE)), False, (YOUTUBE, "video/mp4")),
        (Part(file=C.File(url=YOUTUBE)), True, (YOUTUBE, "video/mp4")),
        (Part(file=C.File(file_id="files/abc")), False, (FILE, None)),
        (Part(file=C.File(file_id=FILE, filename="a.pdf")), False, (FILE, "application/pdf")),
        (
            Part(opaque=C.Opaque(type="video_url", json=b'{"video_url":{"url":"gs://b/v"}}')),
            True,
            ("gs://b/v", "video/mp4"),
        ),
    ],
)
def test_what_google_can_read_by_itself_goes_by_address(
    part: Part, at_vertex: bool, data: tuple[str, str | None]
) -> None:
    found = contents(user(part), at=VERTEX if at_vertex else GEMINI)
    sent = {"fileUri": data[0]} | ({"mimeType": data[1]} if data[1] else {})
    assert found == [said("user", {"fileData": sent})]


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("https://example.com/a.png", {}),
        ("gs://b/a.png", {}),
        (FILE, {"at": VERTEX}),
        ("https://evil.example/?https://www.youtube.com/", {}),
    ],
)
def test_any_other_address_is_an_error_that_says_what_to_send(url: str, more: Any) -> None:
    found = refusal(request(user(Part(image=C.Image(url=url)))), **more)
    assert (found.reason, found.param) == ("invalid_request", "messages[0].content[0]")
    assert "send other media as data" in found.message


def test_a_part_of_a_kind_that_gemini_has_not_is_refused_and_not_forgotten() -> None:
    strange = Part(opaque=C.Opaque(type="hologram", json=b"{}", issuer="openai_chat"))
    assert refusal(request(user("a", strange))).param == "messages[0].content[1].type"


def test_names_that_gemini_refuses_are_changed_alike_in_tools_calls_and_results() -> None:
    asked = request(
        user("?"),
        assistant(called("x", name="1-a")),
        result("x", "1"),
        tools=[tool("1-a"), tool("_1-a")],
    )
    written = body(asked)
    names = [made["name"] for made in written["tools"][0]["functionDeclarations"]]
    assert names == ["_1-a_2", "_1-a"]
    assert written["contents"][1]["parts"][0]["functionCall"]["name"] == "_1-a_2"
    assert responses(written["contents"][2])[0]["name"] == "_1-a_2"
