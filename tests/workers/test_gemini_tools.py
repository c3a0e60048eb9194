"""Tools, the choice among them, and the schemas that Gemini takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from tests.workers.anthropic_hub import request, tool, user
from tests.workers.gemini_hub import FLASH, NEW, OLD, VERTEX, body, dropped, refusal
from workers.dialects.gemini.schema import lowered, plain

G = generation_pb2
CHOICE = generation_pb2.ToolChoice
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def functions(model: str = FLASH, **fields: Any) -> Any:
    [tools] = body(request(**fields), model)["tools"]
    return tools["functionDeclarations"]


def calling(model: str = FLASH, **fields: Any) -> Any:
    config = body(request(**fields), model).get("toolConfig", {})
    return config.get("functionCallingConfig")


def hosted(kind: str, **more: Any) -> G.Tool:
    return G.Tool(hosted=G.HostedTool(type=kind, json=json.dumps({"type": kind, **more}).encode()))


def test_a_function_takes_its_parameters_as_json_schema() -> None:
    made = functions(tools=[tool("weather", CITY, description="By city.")])
    assert made == [{"name": "weather", "description": "By city.", "parametersJsonSchema": CITY}]


def test_the_oldest_models_take_them_in_the_subset() -> None:
    schema = CITY | {"additionalProperties": False, "$schema": "x"}
    assert functions(OLD, tools=[tool("weather", schema)])[0]["parameters"] == CITY


@pytest.mark.parametrize(
    "schema", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}]
)
@pytest.mark.parametrize("model", [FLASH, OLD])
def test_a_function_without_parameters_has_no_schema(schema: Any, model: str) -> None:
    assert functions(model, tools=[tool("now", schema)]) == [{"name": "now"}]


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    [made] = functions(tools=[G.Tool(custom=G.CustomTool(name="python", description="Runs."))])
    assert (made["name"], made["description"]) == ("python", "Runs.")
    assert made["parametersJsonSchema"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (CHOICE(mode=CHOICE.MODE_AUTO), {"mode": "AUTO"}),
        (CHOICE(mode=CHOICE.MODE_NONE), {"mode": "NONE"}),
        (CHOICE(mode=CHOICE.MODE_REQUIRED), {"mode": "ANY"}),
        (
            CHOICE(mode=CHOICE.MODE_NAMED, names=["g"]),
            {"mode": "ANY", "allowedFunctionNames": ["g"]},
        ),
    ],
)
def test_a_choice_is_a_calling_mode(choice: CHOICE, config: Any) -> None:
    assert calling(tools=[tool("f"), tool("g")], tool_choice=choice) == config


@pytest.mark.parametrize(("required", "mode"), [(True, "ANY"), (False, "AUTO")])
def test_of_allowed_tools_only_these_are_offered(required: bool, mode: str) -> None:
    choice = CHOICE(mode=CHOICE.MODE_ALLOWED, names=["g"], required=required)
    fields: dict[str, Any] = {"tools": [tool("f"), tool("g")], "tool_choice": choice}
    assert [made["name"] for made in functions(**fields)] == ["g"]
    assert calling(**fields) == {"mode": mode}


def test_without_functions_there_is_no_calling_mode() -> None:
    asked = request(tool_choice=CHOICE(mode=CHOICE.MODE_REQUIRED))
    assert "toolConfig" not in body(asked)
    assert dropped(asked) == {"tool_choice"}


def test_strict_functions_are_validated_where_that_exists() -> None:
    strict: dict[str, Any] = {"tools": [tool("f", strict=True), tool("g")]}
    assert calling(**strict) == {"mode": "VALIDATED"}
    assert calling("gemini-2.0-flash", **strict) is None
    assert calling(**strict, tool_choice=CHOICE(mode=CHOICE.MODE_REQUIRED)) == {"mode": "ANY"}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (hosted("web_search"), {"googleSearch": {}}),
        (hosted("web_search_preview_2025_03_11", filters={}), {"googleSearch": {}}),
        (hosted("google_search"), {"googleSearch": {}}),
        (hosted("googleSearch", googleSearch={"a": 1}), {"googleSearch": {"a": 1}}),
        (hosted("code_interpreter", container="x"), {"codeExecution": {}}),
        (hosted("url_context"), {"urlContext": {}}),
        (hosted("google_maps", enableWidget=True), {"googleMaps": {"enableWidget": True}}),
    ],
)
def test_a_tool_that_google_runs_has_its_own_entry(given: G.Tool, written: Any) -> None:
    assert body(request(tools=[given]))["tools"] == [written]


def test_a_hosted_tool_that_google_has_not_is_refused() -> None:
    assert refusal(request(tools=[hosted("image_generation")])).param == "tools[0]"


def test_search_stands_beside_functions_from_3_on_and_is_announced_where_that_is_due() -> None:
    asked = request(tools=[tool()], web_search_options=b"{}")
    assert body(asked)["tools"] == [{"functionDeclarations": [{"name": "f"}]}]
    assert dropped(asked) == {"web_search_options"}
    new = body(asked, NEW)
    assert new["tools"][1] == {"googleSearch": {}}
    assert new["toolConfig"] == {"includeServerSideToolInvocations": True}
    assert "toolConfig" not in body(asked, NEW, VERTEX)
    assert dropped(asked, NEW) == set()


def test_before_3_search_gives_way_to_a_schema() -> None:
    form = G.ResponseFormat(
        kind=G.ResponseFormat.KIND_JSON_SCHEMA, schema=json.dumps(CITY).encode()
    )
    asked = request(web_search_options=b"{}", response_format=form)
    assert "tools" not in body(asked)
    assert dropped(asked) == {"web_search_options"}


# --- JSON Schema as it is read -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$schema": "x", "type": "object"}, {"type": "object"}),
        ({"const": "a"}, {"enum": ["a"]}),
        (
            {"type": "string", "format": "email", "description": "Mail."},
            {"type": "string", "description": "Mail.\n\n{format: email}"},
        ),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        (
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "number", "minimum": 0, "description": "{exclusiveMinimum: 0}"},
        ),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": {"const": 1}}},
            {"$ref": "#/$defs/A", "$defs": {"A": {"enum": [1]}}},
        ),
        ({"anyOf": [{"const": 1}, True]}, {"anyOf": [{"enum": [1]}, True]}),
        # A property may have the name of a keyword.
        (
            {"properties": {"const": {"type": "string"}, "$schema": {"const": 2}}},
            {"properties": {"const": {"type": "string"}, "$schema": {"enum": [2]}}},
        ),
    ],
)
def test_json_schema_goes_without_what_is_refused(schema: Any, expected: Any) -> None:
    before = json.dumps(schema)
    assert plain(schema) == expected
    assert json.dumps(schema) == before


# --- the OpenAPI subset ------------------------------------------------------------------------

REF = {"$ref": "#/$defs/A"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "integer", "nullable": True}),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}]},
            {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        ),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"enum": [1, 2]}, {"type": "integer", "description": "{one of: [1, 2]}"}),
        ({"type": "string", "format": "uri"}, {"type": "string", "description": "{format: uri}"}),
        ({"type": "integer", "format": "int32"}, {"type": "integer", "format": "int32"}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}]},
            {"type": "array", "items": {"type": "integer"}},
        ),
        ({"type": "object", "additionalProperties": {}}, {"type": "object"}),
        (
            {"properties": {"a": {"not": {}}}},
            {"type": "object", "properties": {"a": {"description": "{not: {}}"}}},
        ),
        (
            {"type": "object", "properties": {"a": REF}, "$defs": {"A": {"type": "integer"}}},
            {"type": "object", "properties": {"a": {"type": "integer"}}},
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {}}, "required": ["a"]},
                    {"properties": {"b": {}}, "required": ["b"]},
                ]
            },
            {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]},
        ),
        # A tree of itself ends where it comes back.
        (
            {"properties": {"a": REF}, "$defs": {"A": {"properties": {"next": REF}}}},
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {"next": {"type": "object"}}}},
            },
        ),
    ],
)
def test_the_subset_says_what_it_can(schema: Any, expected: Any) -> None:
    assert lowered(schema, "p") == expected


def test_a_schema_that_doubles_at_every_step_is_refused_and_not_written_out() -> None:
    def both(number: int) -> Any:
        ref = {"$ref": f"#/$defs/{number + 1}"}
        return {"properties": {"a": ref, "b": ref}}

    with pytest.raises(InferenceError) as caught:
        lowered({"$ref": "#/$defs/0", "$defs": {str(n): both(n) for n in range(60)}}, "p")
    assert (caught.value.reason, caught.value.param) == ("invalid_request", "p")


def test_a_schema_that_is_no_object_names_its_place() -> None:
    broken = G.Tool(function=G.FunctionTool(name="f", parameters=b"[]"))
    found = refusal(request(user("?"), tools=[broken]))
    assert found.param == "tools[0].function.parameters"
