"""The hosted tool image_generation as a function: what the model is told, what is drawn for it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from broker.config import Settings
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Decision, Target
from broker.routing.candidates import Candidate
from broker.routing.names import Wish
from broker.settings import ImageToolSettings, ToolSettings
from broker.translate import hosted_images
from broker.translate.responses_request import parse_responses
from broker.v1 import content_pb2, generation_pb2
from edge.hosted import HostedTools

TOOL = {"type": "image_generation"}
PNG = b"\x89PNG\r\n\x1a\n x"
Choice = generation_pb2.ToolChoice


def parse(**fields: Any) -> generation_pb2.Request:
    body = {"model": "groq/m", "input": "draw", "tools": [TOOL], **fields}
    return parse_responses(json.dumps(body).encode())


def with_function(request: generation_pb2.Request) -> generation_pb2.GenerateRequest:
    tool = hosted_images.read_tool(request.generate)
    return hosted_images.with_function(request, tool).generate


def item(data: bytes = PNG, **more: Any) -> dict[str, Any]:
    result = b64encode(data).decode()
    return {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": result,
        **more,
    }


def test_the_model_gets_a_function_and_the_request_stays_as_it_was() -> None:
    other = {"type": "function", "name": "f", "parameters": {}}
    request = parse(tools=[other, TOOL])
    generate = with_function(request)
    assert [tool.WhichOneof("kind") for tool in generate.tools] == ["function", "function"]
    function = generate.tools[1].function
    assert function.name == "image_generation"
    assert json.loads(function.parameters)["required"] == ["prompt"]
    assert set(json.loads(function.parameters)["properties"]) == {"prompt", "edit"}
    only = with_function(parse(tools=[{**TOOL, "action": "generate"}])).tools[0].function
    assert set(json.loads(only.parameters)["properties"]) == {"prompt"}
    assert request.generate.tools[1].HasField("hosted")
    assert hosted_images.place(request.generate) == 1
    assert hosted_images.place(generate) is None


def test_the_tool_is_one_whoever_else_is_called_so() -> None:
    assert len(with_function(parse(tools=[TOOL, TOOL])).tools) == 1
    other = {"type": "function", "name": "image_generation", "parameters": {}}
    with pytest.raises(InferenceError) as raised:
        with_function(parse(tools=[TOOL, other]))
    assert raised.value.param == "tools[1].name"


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("auto", Choice.MODE_AUTO, []),
        ("required", Choice.MODE_REQUIRED, []),
        (TOOL, Choice.MODE_NAMED, ["image_generation"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [TOOL, {"type": "function", "name": "f"}],
            },
            Choice.MODE_ALLOWED,
            ["image_generation", "f"],
        ),
    ],
)
def test_a_choice_of_the_tool_is_one_of_the_function_and_ends_once_it_was_called(
    choice: Any, mode: Any, names: list[str]
) -> None:
    request = parse(tool_choice=choice)
    generate = with_function(request)
    assert generate.tool_choice.mode == mode
    assert list(generate.tool_choice.names) == names
    assert not generate.tool_choice.hosted
    said = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
    asked = generation_pb2.Request(generate=generate)
    hosted_images.go_on(asked, said, [("call_1", "done")], again=True)
    after = asked.generate.tool_choice
    assert after.mode == (mode if mode == Choice.MODE_ALLOWED else Choice.MODE_AUTO)
    assert not after.required
    hosted_images.go_on(asked, said, [], again=False)
    assert asked.generate.tool_choice.mode == Choice.MODE_NONE
    assert asked.generate.messages[2].parts[0].tool_result.call_id == "call_1"


def drawn(tool: dict[str, Any], arguments: Any, **fields: Any) -> generation_pb2.Request:
    request = parse(tools=[{**TOOL, **tool}], **fields)
    read = hosted_images.read_tool(request.generate)
    return hosted_images.image_request(request, read, json.dumps(arguments).encode(), "sim/draws")


def test_what_the_tool_says_goes_to_who_draws() -> None:
    tool = {"size": "1024x1536", "quality": "high", "partial_images": 2, "output_format": "webp"}
    request = drawn(tool, {"prompt": "a fox"}, stream=True, tags=["t"], region="eu")
    image = request.image
    assert (image.model, image.prompt, image.size) == ("sim/draws", "a fox", "1024x1536")
    assert (image.quality, image.output_format) == ("high", "webp")
    assert (image.stream, image.partial_images) == (True, 2)
    assert image.response_format == "b64_json"
    assert (list(request.platform.tags), request.platform.region) == (["t"], "eu")
    assert not drawn(tool, {"prompt": "a fox"}).image.stream
    assert drawn({"model": "openai/x"}, {"prompt": "a"}).image.model == "openai/x"
    assert drawn({"model": "gpt-image-1"}, {"prompt": "a"}).image.model == "sim/draws"


@pytest.mark.parametrize("arguments", [[], {}, {"prompt": ""}, {"prompt": 1}, "x"])
def test_arguments_that_are_none_are_told(arguments: Any) -> None:
    with pytest.raises(InferenceError, match="prompt"):
        drawn({}, arguments)


IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{b64encode(b'mine').decode()}"}
USER = {"role": "user", "content": [{"type": "input_text", "text": "blue"}, IMAGE]}


@pytest.mark.parametrize(
    ("given", "tool", "edit", "found"),
    [
        ([USER], {}, True, [b"mine"]),
        ([USER], {}, False, []),
        ([USER], {"action": "edit"}, False, [b"mine"]),
        ([USER], {"action": "generate"}, True, []),
        ([USER, item(b"one"), item(b"two"), {"role": "user", "content": "x"}], {}, True, [b"two"]),
        ([item(), USER], {}, True, [b"mine"]),
        ([{"role": "user", "content": "x"}], {}, True, []),
    ],
)
def test_an_edit_is_of_the_latest_picture(
    given: Any, tool: dict[str, Any], edit: bool, found: list[bytes]
) -> None:
    mask = {"input_image_mask": {"image_url": IMAGE["image_url"]}}
    image = drawn({**tool, **mask}, {"prompt": "p", "edit": edit}, input=given).image
    assert [one.data for one in image.images] == found
    assert image.HasField("mask") == bool(found)


def test_an_edit_is_of_what_the_same_answer_drew_before() -> None:
    request = parse(input=[USER])
    tool = hosted_images.read_tool(request.generate)
    latest = content_pb2.InlineData(media_type="image/png", data=b"new")
    arguments = b'{"prompt": "p", "edit": true}'
    made = hosted_images.image_request(request, tool, arguments, "m", latest)
    assert [one.data for one in made.image.images] == [b"new"]


def test_earlier_pictures_are_calls_with_their_outputs() -> None:
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Here."}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    items = [
        {"role": "user", "content": "a"},
        item(revised_prompt="a fox"),
        said,
        {"role": "user", "content": "b"},
        item(),
        call,
        output,
    ]
    generate = with_function(parse(input=items))
    shown = [
        (
            content_pb2.Role.Name(message.role)[5:].lower(),
            [p.WhichOneof("kind") for p in message.parts],
        )
        for message in generate.messages
    ]
    assert shown == [
        ("user", ["text"]),
        ("assistant", ["tool_call"]),
        ("tool", ["tool_result"]),
        ("assistant", ["text"]),
        ("user", ["text"]),
        ("assistant", ["tool_call", "tool_call"]),
        ("tool", ["tool_result"]),
        ("tool", ["tool_result"]),
    ]
    first = generate.messages[1].parts[0].tool_call
    assert json.loads(first.arguments) == {"prompt": "a fox"}
    assert generate.messages[2].parts[0].tool_result.call_id == first.call_id


# --- who draws ---


class Engine:
    """Says who would answer, and remembers what is submitted."""

    def __init__(self, *providers: str) -> None:
        self.providers = providers
        self.asked: list[generation_pb2.Request] = []

    async def decide(self, request: generation_pb2.Request) -> Decision:
        name = request.generate.model
        chosen = tuple(
            Candidate(Target(provider, "main", "m", listed=True), Wish(name), None)
            for provider in self.providers
        )
        return Decision(request.generate.model, "", chosen)

    async def submit(self, request: generation_pb2.Request, key: Any, **_more: Any) -> Any:
        self.asked.append(request)
        return self

    def hold(self, whole: object) -> None: ...

    def let_go(self, whole: object) -> None: ...


async def submit(tools: HostedTools, request: generation_pb2.Request) -> None:
    key = KeyRecord(id="k", name="k", created_at=0)
    await tools.submit(request, key, request_id="r", timeout_s=5)


@pytest.mark.parametrize(
    ("providers", "model", "hosted"),
    [
        (["openai"], None, True),
        (["azure", "openai"], None, True),
        (["openai"], "sim/sim", True),
        (["openai", "groq"], "sim/sim", False),
        (["groq"], "sim/sim", False),
    ],
)
async def test_the_broker_draws_where_somebody_in_line_does_not(
    providers: Sequence[str], model: str | None, hosted: bool
) -> None:
    settings = Settings(tools=ToolSettings(ImageToolSettings(model)))
    engine = Engine(*providers)
    await submit(HostedTools(engine, settings), parse())
    [asked] = engine.asked
    assert asked.generate.tools[0].HasField("hosted") == hosted


async def test_without_the_setting_the_tool_is_refused_and_the_setting_named() -> None:
    engine = Engine("groq")
    tools = HostedTools(engine, Settings())
    with pytest.raises(InferenceError, match=r"tools\.image_generation\.model") as raised:
        await submit(tools, parse())
    assert (raised.value.row.http, raised.value.param) == (400, "tools[0]")
    assert not engine.asked
    await submit(tools, parse(tools=[{**TOOL, "model": "openai/gpt-image-2"}]))
    await submit(tools, parse(tools=[]))
    assert len(engine.asked) == 2


def test_who_draws_is_held_to_what_holds_for_everybody() -> None:
    given = b'{"order": ["groq"], "zdr": true, "compliance": "EU", "max_price": {"prompt": 1}}'
    assert json.loads(hosted_images.conditions(given)) == {"zdr": True, "compliance": "EU"}
    assert hosted_images.conditions(b'{"sort": "price"}') == b""
    assert hosted_images.conditions(b"") == b""
