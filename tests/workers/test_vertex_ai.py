"""Vertex AI: its hosts and paths, and Claude on it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from broker.v1.content_pb2 import Part
from tests.workers.anthropic_hub import request, user
from tests.workers.gemini_hub import VERTEX, call
from tests.workers.test_registry import Settings
from workers import registry
from workers.provider import Call, Provider


def vertex(base_url: str | None = None, **options: str) -> Provider:
    return registry.load(Settings("vertex_ai", base_url=base_url, options=options))


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_a_location_has_its_host_and_is_in_the_path(location: str, host: str) -> None:
    at = vertex(project="p", location=location)
    assert at.base_url == f"https://{host}"
    parent = f"/projects/p/locations/{location}/publishers"
    made = call(request(), at=at).path
    assert made == f"/v1beta1{parent}/google/models/gemini-2.5-flash:generateContent"
    claude = call(request(stream=True), "claude-opus-4-8", at).path
    assert claude == f"/v1{parent}/anthropic/models/claude-opus-4-8:streamRawPredict"


def test_without_a_location_it_is_the_global_one() -> None:
    at = vertex(project="p")
    assert at.base_url == "https://aiplatform.googleapis.com"
    assert "/locations/global/" in call(request(), at=at).path


def test_without_a_project_models_belong_to_none() -> None:
    path = call(request(), at=vertex()).path
    assert path == "/v1beta1/publishers/google/models/gemini-2.5-flash:generateContent"


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1", "http://127.0.0.1:1/v1beta1"])
def test_another_base_url_keeps_the_rest_of_the_path(base_url: str) -> None:
    at = vertex(base_url, project="p", location="us-east5")
    made = at.base_url + call(request(), at=at).path
    assert made == (
        "http://127.0.0.1:1/v1beta1/projects/p/locations/us-east5/publishers/google/models/"
        "gemini-2.5-flash:generateContent"
    )


@pytest.mark.parametrize("options", [{"project": "a/b"}, {"project": "p", "location": "x.evil/"}])
def test_an_option_that_is_no_name_is_refused_at_the_start(options: dict[str, str]) -> None:
    with pytest.raises(registry.ProviderError, match="no name of Google Cloud's"):
        vertex(**options)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("endpoints/123", "endpoints/123"),
        ("publishers/meta/models/llama-4", "publishers/meta/models/llama-4"),
    ],
)
def test_a_model_can_be_another_resource_of_the_project(model: str, path: str) -> None:
    made = call(request(), model, vertex(project="p")).path
    assert made == f"/v1beta1/projects/p/locations/global/{path}:generateContent"


def test_a_model_with_a_project_of_its_own_stands_alone() -> None:
    made = call(request(), "projects/q/locations/us/endpoints/1", vertex(project="p")).path
    assert made == "/v1beta1/projects/q/locations/us/endpoints/1:generateContent"


def in_region(region: str, model: str = "gemini-2.5-flash", at: Provider | None = None) -> Call:
    asked = request()
    asked.platform.region = region
    return call(asked, model, at or vertex(project="p", location="us-east5"))


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
        ("us-east5", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize(
    ("model", "publisher"), [("gemini-2.5-flash", "google"), ("claude-opus-4-8", "anthropic")]
)
def test_the_region_of_a_request_chooses_host_and_path(
    region: str, host: str, model: str, publisher: str
) -> None:
    made = in_region(region, model)
    assert made.base_url == host
    assert f"/projects/p/locations/{region or 'us-east5'}/publishers/{publisher}/" in made.path


def test_every_operation_goes_to_the_region_of_its_request() -> None:
    at = vertex(project="p")
    asked = generation_pb2.Request()
    asked.platform.region = "europe-west4"
    asked.embed.texts.append("x")
    counted = generation_pb2.Request(platform=asked.platform)
    counted.count_tokens.CopyFrom(request().generate)
    for operation, one in (("embed", asked), ("count_tokens", counted)):
        made = at.dialect_for("gemini-embedding-001", operation).call(one, "gemini-2.5-flash", at)
        assert made.base_url == "https://europe-west4-aiplatform.googleapis.com", operation
        assert "/locations/europe-west4/" in made.path, operation


def test_a_host_of_the_operators_own_stands_before_all_regions() -> None:
    made = in_region("europe-west4", at=vertex("http://127.0.0.1:1", project="p"))
    assert made.base_url == ""
    assert "/locations/europe-west4/" in made.path


@pytest.mark.parametrize(
    "region", ["evil.example.com/", "evil", "a-b1.evil.com", "EU", "europe-west4/../..", "eu\n"]
)
def test_a_region_is_no_way_to_name_a_host(region: str) -> None:
    with pytest.raises(InferenceError, match="Not the name of a location") as told:
        in_region(region)
    assert (told.value.reason, told.value.param) == ("invalid_request", "region")


def test_a_region_needs_a_project_and_is_nothing_to_who_has_no_regions() -> None:
    with pytest.raises(InferenceError, match="set MINE_PROJECT"):
        in_region("eu", at=vertex())
    made = in_region("eu", at=registry.load(Settings("gemini")))
    assert (made.base_url, made.path) == ("", "/v1beta/models/gemini-2.5-flash:generateContent")
    own = in_region("eu", "projects/q/locations/us/endpoints/1")
    assert (own.base_url, "/projects/q/locations/us/" in own.path) == ("", True)


# --- Claude ------------------------------------------------------------------------------------


def test_claude_is_named_in_the_path_and_its_version_in_the_body() -> None:
    made = call(request(user("hi")), "claude-sonnet-4-5-20250929", vertex(project="p"))
    assert made.path.endswith("/anthropic/models/claude-sonnet-4-5@20250929:rawPredict")
    written = json.loads(made.body)
    assert written.pop("max_tokens") == 64_000
    assert written == {
        "anthropic_version": "vertex-2023-10-16",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    assert made.headers == {"content-type": "application/json"}


def test_claudes_stream_is_asked_for_in_the_body_too() -> None:
    made = call(request(stream=True), "claude-opus-4-8", VERTEX)
    assert json.loads(made.body)["stream"] is True
    assert made.path.endswith(":streamRawPredict")


def test_features_that_claude_has_not_there_are_not_named() -> None:
    file = Part(file=content_pb2.File(file_id="file_1"))
    extra: dict[str, Any] = {"context_management": {}, "mcp_servers": []}
    made = call(request(user(file), extra=extra), "claude-opus-4-8", VERTEX)
    assert made.headers["anthropic-beta"] == "context-management-2025-06-27"


def test_errors_of_claude_and_of_google_around_it_are_both_understood() -> None:
    dialect = VERTEX.dialect_for("claude-opus-4-8")
    own = {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}
    found = dialect.error(529, {}, json.dumps(own).encode())
    assert (found.reason, found.message) == ("upstream_overloaded", "Busy.")
    google = {"error": {"code": 403, "message": "Denied.", "status": "PERMISSION_DENIED"}}
    found = dialect.error(403, {}, json.dumps(google).encode())
    assert (found.reason, found.message) == ("upstream_credentials", "Denied.")
