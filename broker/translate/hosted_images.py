"""The hosted tool `image_generation`, where its provider has none: as a function, and as requests.

The model is given a function in place of the tool. What it calls that with becomes an image
request; what was drawn is told to it as the function's output. Pictures of earlier turns, which are
items of the Responses API, become calls of the function that made them.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Struct

from broker.errors import InferenceError
from broker.items import RESPONSES
from broker.translate.body import shaped
from broker.translate.images import add_reference
from broker.translate.refusals import invalid, json_text
from broker.v1 import content_pb2, generation_pb2, operations_pb2

TYPE = "image_generation"
# What the function is called.
FUNCTION = "image_generation"
_CALL = "image_generation_call"
_MOST_IMAGES = 16
_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_FOR_ALL = ("compliance", "data_collection", "zdr")
_FIELDS = (
    "background",
    "input_fidelity",
    "moderation",
    "output_compression",
    "output_format",
    "quality",
    "size",
)
_DRAWN = "The image was drawn, and the user sees it."


class _Mask(Struct):
    image_url: str | None = None
    file_id: str | None = None


class ImageTool(Struct):
    """The tool as a caller writes it."""

    action: str | None = None
    background: str | None = None
    input_fidelity: str | None = None
    input_image_mask: _Mask | None = None
    model: str | None = None
    moderation: str | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    output_format: str | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    quality: str | None = None
    size: str | None = None


class _Arguments(Struct):
    prompt: Annotated[str, Meta(min_length=1)]
    edit: bool = False


def place(generate: _Generate) -> int | None:
    """Where among the tools it stands; None where it does not."""
    for index, tool in enumerate(generate.tools):
        if tool.HasField("hosted") and tool.hosted.type == TYPE:
            return index
    return None


def read_tool(generate: _Generate) -> ImageTool:
    """The tool of a request that has it. Raises `InferenceError` with its path as `param`."""
    index = place(generate) or 0
    try:
        return shaped(msgspec.json.decode(generate.tools[index].hosted.json), ImageTool)
    except InferenceError as exc:
        exc.param = f"tools[{index}].{exc.param}" if exc.param else f"tools[{index}]"
        raise


def with_function(request: generation_pb2.Request, tool: ImageTool) -> generation_pb2.Request:
    """The request with the function in place of the tool."""
    asked = generation_pb2.Request()
    asked.CopyFrom(request)
    generate = asked.generate
    _tell_earlier(generate)
    for number, other in enumerate(generate.tools):
        if other.function.name == FUNCTION:
            message = f"'{FUNCTION}' is what the tool of this name is called: rename the function"
            raise invalid(f"tools[{number}].name", message)
    index = place(generate) or 0
    generate.tools[index].CopyFrom(_function(tool))
    while (again := place(generate)) is not None:
        del generate.tools[again]
    _choose(generate.tool_choice)
    return asked


def _function(tool: ImageTool) -> generation_pb2.Tool:
    described = "Draws an image, which the user is shown. Call it once for each image."
    properties: dict[str, Any] = {
        "prompt": {"type": "string", "description": "What the image shows, in detail."}
    }
    if tool.action not in ("edit", "generate"):
        properties["edit"] = {
            "type": "boolean",
            "description": "True changes the latest image, rather than drawing a new one.",
        }
    parameters = {
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "additionalProperties": False,
    }
    function = generation_pb2.FunctionTool(
        name=FUNCTION, description=described, parameters=orjson.dumps(parameters)
    )
    return generation_pb2.Tool(function=function)


def _choose(choice: generation_pb2.ToolChoice) -> None:
    """The choice of the tool as one of the function."""
    if not choice.hosted:
        return
    wanted = orjson.loads(choice.hosted)
    if choice.mode == _Choice.MODE_HOSTED and wanted.get("type") == TYPE:
        choice.mode = _Choice.MODE_NAMED
        choice.names[:] = [FUNCTION]
    elif choice.mode == _Choice.MODE_ALLOWED:
        tools = (wanted.get("allowed_tools") or wanted)["tools"]
        if any(tool.get("type") not in ("function", TYPE) for tool in tools):
            return
        choice.names[:] = [tool.get("name") or FUNCTION for tool in tools]
    else:
        return
    choice.kind = content_pb2.TOOL_KIND_FUNCTION
    choice.hosted = b""


def go_on(
    request: generation_pb2.Request,
    said: content_pb2.Message,
    results: list[tuple[str, str]],
    *,
    again: bool,
) -> None:
    """Add what the model said and what came of its calls: texts by the ids of the calls.

    Nothing is called any more unless `again`.
    """
    generate = request.generate
    generate.messages.append(said)
    for call_id, text in results:
        generate.messages.append(_result(call_id, text))
    choice = generate.tool_choice
    if not again:
        generate.tool_choice.Clear()
        generate.tool_choice.mode = _Choice.MODE_NONE
    elif choice.mode in (_Choice.MODE_NAMED, _Choice.MODE_REQUIRED):
        # It was called: what it has to say now is up to it.
        choice.Clear()
        choice.mode = _Choice.MODE_AUTO
    elif choice.mode == _Choice.MODE_ALLOWED:
        choice.required = False


def _result(call_id: str, text: str) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_TOOL)
    result = message.parts.add().tool_result
    result.call_id = call_id
    result.name = FUNCTION
    result.kind = content_pb2.TOOL_KIND_FUNCTION
    result.parts.add().text.text = text
    return message


def drawn_text(revised_prompt: str) -> str:
    """The output of a call that drew something."""
    return f"{_DRAWN} It shows: {revised_prompt}" if revised_prompt else _DRAWN


def failed_text(why: str) -> str:
    """The output of a call that drew nothing."""
    return f"The image could not be drawn: {why}"


def image_request(
    request: generation_pb2.Request,
    tool: ImageTool,
    arguments: bytes,
    model: str,
    latest: content_pb2.InlineData | None = None,
) -> generation_pb2.Request:
    """What a call of the function asks for; `latest` was drawn in the same answer.

    Raises `InferenceError` for arguments that are none.
    """
    try:
        called = msgspec.json.decode(arguments, type=_Arguments)
    except msgspec.DecodeError as exc:
        message = f"its arguments have to be an object with a prompt ({exc})"
        raise InferenceError("invalid_request", message) from exc
    asked = generation_pb2.Request()
    image = asked.image
    # A name alone is one of OpenAI's models, which the operator has chosen another for.
    image.model = tool.model if tool.model and "/" in tool.model else model
    image.prompt = called.prompt
    image.response_format = "b64_json"
    for name in _FIELDS:
        if (value := getattr(tool, name)) is not None:
            setattr(image, name, value)
    if request.generate.stream and tool.partial_images:
        image.stream = True
        image.partial_images = tool.partial_images
    if tool.action == "edit" or (called.edit and tool.action != "generate"):
        if latest is None:
            image.images.extend(pictures(request.generate))
        else:
            image.images.add(data=latest.data, media_type=latest.media_type)
    if image.images and tool.input_image_mask is not None:
        mask = tool.input_image_mask
        add_reference(image.mask, mask.image_url or "", mask.file_id or "", "input_image_mask")
    platform = request.platform
    for name in ("signature", "region", "log_query_body", "log_response_body", "use_custom_keys"):
        if platform.HasField(name):  # type: ignore[arg-type]
            setattr(asked.platform, name, getattr(platform, name))
    asked.platform.tags.extend(platform.tags)
    asked.platform.provider = conditions(platform.provider)
    return asked


def conditions(preferences: bytes) -> bytes:
    """Of a `provider` object what holds for whoever sees the prompt, not for one model's choice."""
    if not preferences:
        return b""
    given = msgspec.json.decode(preferences, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in given.items() if name in _FOR_ALL}
    return msgspec.json.encode(kept) if kept else b""


# --- pictures that are there already --------------------------------------------------------------


def pictures(generate: _Generate) -> list[operations_pb2.Attachment]:
    """What there is to be edited: what was drawn last, else what a user showed last."""
    for message in reversed(generate.messages):
        found = [one for part in message.parts if (one := _picture(part)) is not None]
        if found and message.role == content_pb2.ROLE_ASSISTANT:
            return found[-1:]
        if found:
            return found[:_MOST_IMAGES]
    return []


def _picture(part: content_pb2.Part) -> operations_pb2.Attachment | None:
    found = operations_pb2.Attachment()
    if part.HasField("image"):
        image = part.image
        if image.HasField("inline"):
            found.data, found.media_type = image.inline.data, image.inline.media_type
        elif image.url:
            found.url = image.url
        else:
            found.file_id = image.file_id
        return found
    if part.opaque.type == _CALL and (text := orjson.loads(part.opaque.json).get("result")):
        try:
            found.data = b64decode(text, validate=True)
        except (TypeError, ValueError):
            return None
        return found
    return None


def _tell_earlier(generate: _Generate) -> None:
    """Put calls of the function, with outputs, in place of items of earlier turns."""
    told: list[content_pb2.Message] = []
    for number, message in enumerate(generate.messages):
        if not any(_is_item(part) for part in message.parts):
            told.append(message)
            continue
        apart = not any(part.HasField("tool_call") for part in message.parts)
        said = content_pb2.Message(role=message.role)
        results: list[content_pb2.Message] = []
        for place_, part in enumerate(message.parts):
            if not _is_item(part):
                said.parts.append(part)
                continue
            item = orjson.loads(part.opaque.json)
            call_id = f"call_image_{number}_{place_}"
            said.parts.append(_call(call_id, str(item.get("revised_prompt") or "an image")))
            results.append(_result(call_id, _DRAWN))
            if apart:
                # What was said after it was said with the picture in view.
                told += [said, *results]
                said, results = content_pb2.Message(role=message.role), []
        if said.parts:
            told.append(said)
        told += results
    del generate.messages[:]
    generate.messages.extend(told)


def _is_item(part: content_pb2.Part) -> bool:
    return part.opaque.type == _CALL and part.opaque.issuer == RESPONSES


def _call(call_id: str, prompt: str) -> content_pb2.Part:
    part = content_pb2.Part()
    part.tool_call.call_id = call_id
    part.tool_call.name = FUNCTION
    part.tool_call.kind = content_pb2.TOOL_KIND_FUNCTION
    part.tool_call.arguments = json_text({"prompt": prompt}, "input")
    return part
