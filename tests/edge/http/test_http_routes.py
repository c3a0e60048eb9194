from __future__ import annotations

import httpx
import orjson
import pytest

from edge.http.framework import framework
from tests.edge.http.standin import AUTHORIZED, Engine, Model, Start, body

CHAT = "/v1/chat/completions"


async def test_models_are_listed_as_openai_lists_them(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    answer = await client.get(edge.url + "/v1/models", headers=AUTHORIZED)
    assert answer.status_code == 200
    assert answer.json() == {
        "object": "list",
        "data": [
            {"id": "sim/sim-1", "object": "model", "created": 0, "owned_by": "sim"},
            {
                "id": "openai/gpt-4o",
                "object": "model",
                "created": 0,
                "owned_by": "openai",
                "operations": ["generate"],
            },
        ],
    }


@pytest.mark.parametrize("path", ["/v1/models/openai/gpt-4o", "/v1/models/openai%2Fgpt-4o"])
async def test_a_model_is_found_by_an_id_with_slashes(
    start: Start, client: httpx.AsyncClient, path: str
) -> None:
    edge = await start()
    answer = await client.get(edge.url + path, headers=AUTHORIZED)
    assert answer.status_code == 200
    assert answer.json()["id"] == "openai/gpt-4o"


async def test_a_model_is_found_by_its_plain_name(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start()
    answer = await client.get(edge.url + "/v1/models/gpt-4o", headers=AUTHORIZED)
    assert answer.json() == {
        "id": "gpt-4o",
        "object": "model",
        "created": 0,
        "owned_by": "openai",
        "operations": ["generate"],
    }


KNOWN = [
    Model("openai/gpt-4o", "openai", ("generate",)),
    Model("openai/text-embedding-3-small", "openai", ("embed",)),
    Model("mine/unknown", "mine"),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["gpt-4o", "text-embedding-3-small", "unknown"]),
        ("?operation=embed", ["text-embedding-3-small"]),
        ("?operation=generate", ["gpt-4o", "unknown"]),
        ("?operation=count_tokens", ["gpt-4o", "unknown"]),
        ("?operation=rerank", []),
    ],
)
async def test_lists_are_narrowed_down_to_what_models_are_for(
    start: Start, client: httpx.AsyncClient, query: str, names: list[str]
) -> None:
    edge = await start(Engine(known=KNOWN))
    listed = (await client.get(f"{edge.url}/v1/models{query}", headers=AUTHORIZED)).json()["data"]
    assert [model["id"].partition("/")[2] for model in listed] == names
    plain = (await client.get(f"{edge.url}/v0/models{query}", headers=AUTHORIZED)).json()
    assert plain == sorted(names)
    at = (await client.get(f"{edge.url}/v0/endpoints{query}", headers=AUTHORIZED)).json()
    assert [name.partition("@")[0] for name in at] == names


@pytest.mark.parametrize("path", ["/v1/models", "/v0/models", "/v0/endpoints", "/v0/providers"])
async def test_a_word_that_is_no_operation_is_answered_with_those_there_are(
    start: Start, client: httpx.AsyncClient, path: str
) -> None:
    edge = await start()
    answer = await client.get(f"{edge.url}{path}?operation=embeddings", headers=AUTHORIZED)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        400,
        "operation",
        "invalid_value",
    )
    assert "'embed'" in error["message"]


async def test_anthropics_clients_are_listed_models_that_answer_messages(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(Engine(known=KNOWN))
    headers = {**AUTHORIZED, "anthropic-version": "2023-06-01"}
    listed = (await client.get(edge.url + "/v1/models", headers=headers)).json()["data"]
    assert [model["id"] for model in listed] == ["openai/gpt-4o", "mine/unknown"]


async def test_anthropics_clients_are_told_in_their_form(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    headers = {**AUTHORIZED, "anthropic-version": "2023-06-01"}
    model = {"type": "model", "display_name": "sim/sim-1", "created_at": "1970-01-01T00:00:00Z"}
    listed = (await client.get(edge.url + "/v1/models", headers=headers)).json()
    assert listed["data"][0] == {"id": "sim/sim-1", **model}
    assert (listed["first_id"], listed["last_id"]) == ("sim/sim-1", "openai/gpt-4o")
    assert listed["has_more"] is False
    answer = await client.get(edge.url + "/v1/models/sim/sim-1", headers=headers)
    assert answer.json() == {"id": "sim/sim-1", **model}


async def test_an_unknown_model_is_a_404_that_suggests_near_names(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    answer = await client.get(edge.url + "/v1/models/openai/gpt-4oo", headers=AUTHORIZED)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "did you mean 'openai/gpt-4o'?" in error["message"]
    answer = await client.get(edge.url + "/v1/models/zzz", headers=AUTHORIZED)
    assert "did you mean" not in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/sim/sim-1"])
async def test_models_need_a_key(start: Start, client: httpx.AsyncClient, path: str) -> None:
    edge = await start()
    answer = await client.get(edge.url + path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("/v0/endpoints", ["sim-1@sim", "gpt-4o@openai"]),
        ("/v0/endpoints?model=gpt-4o", ["gpt-4o@openai"]),
        ("/v0/endpoints?provider=sim", ["sim-1@sim"]),
        ("/v0/endpoints?provider=azure", []),
        ("/v0/models", ["gpt-4o", "sim-1"]),
        ("/v0/models?provider=OpenAI", ["gpt-4o"]),
        ("/v0/providers", ["openai", "sim"]),
        ("/v0/providers?model=sim-1", ["sim"]),
    ],
)
async def test_the_v0_lists_are_plain_names(
    start: Start, client: httpx.AsyncClient, path: str, listed: list[str]
) -> None:
    edge = await start()
    assert (await client.get(edge.url + path)).status_code == 401
    assert (await client.get(edge.url + path, headers=AUTHORIZED)).json() == listed


async def test_health_is_told_apart_from_readiness(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start(Engine(is_ready=False, workers=0))
    assert (await client.get(edge.url + "/healthz")).json() == {"status": "ok"}
    answer = await client.get(edge.url + "/readyz")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert "no worker" in answer.json()["reasons"][0]
    edge.engine.workers = 1
    assert "NATS" in (await client.get(edge.url + "/readyz")).json()["reasons"][0]
    edge.engine.is_ready = True
    answer = await client.get(edge.url + "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})


async def test_the_version_is_the_packages(start: Start, client: httpx.AsyncClient) -> None:
    from importlib import metadata

    edge = await start()
    answer = await client.get(edge.url + "/version")
    assert answer.json() == {"version": metadata.version("millrace"), "edge": "edge-test"}


async def test_metrics_show_what_the_engine_does_now(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED)
    answer = await client.get(edge.url + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    for line in (
        'millrace_in_flight{process="edge-test"} 0.0',
        'millrace_queue_depth{process="edge-test"} 7.0',
        'millrace_worker_slots{process="edge-test",provider="sim",worker="w0"} 64.0',
        'millrace_worker_sessions{process="edge-test",provider="sim",worker="w0"} 1.0',
    ):
        assert line in text
    assert edge.engine.looks == 1
    assert "millrace_tasks{" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/v1/models", "/v0/models"])
async def test_head_is_answered_without_a_body(
    start: Start, client: httpx.AsyncClient, path: str
) -> None:
    edge = await start()
    answer = await client.head(edge.url + path, headers=AUTHORIZED)
    assert (answer.status_code, answer.content) == (200, b"")
    whole = await client.get(edge.url + path, headers=AUTHORIZED)
    assert answer.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /", (404, "not_found", None)),
        ("POST /v1/nothing", (404, "not_found", None)),
        ("POST " + CHAT + "/", (404, "not_found", None)),
        ("GET /v1/models/", (404, "model_not_found", None)),
        ("GET " + CHAT, (405, "method_not_allowed", "POST")),
        ("OPTIONS " + CHAT, (405, "method_not_allowed", "POST")),
        ("DELETE /v1/models", (405, "method_not_allowed", "GET")),
        ("POST /version", (405, "method_not_allowed", "GET")),
    ],
)
async def test_unknown_routes_and_methods_have_the_usual_error_and_id(
    start: Start,
    client: httpx.AsyncClient,
    request_line: str,
    expected: tuple[int, str, str | None],
) -> None:
    edge = await start()
    method, path = request_line.split()
    status, code, allow = expected
    answer = await client.request(method, edge.url + path, headers=AUTHORIZED)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers.get("allow") == allow
    (line,) = edge.lines()
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["status"], line["path"]) == (status, path)


async def test_a_bug_in_a_framework_route_is_a_500_that_tells_nothing(
    start: Start, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Engine):
        def models(self) -> list[object]:  # type: ignore[override]
            raise ValueError("inner secret")

    edge = await start(Broken())
    answer = await client.get(edge.url + "/v1/models", headers=AUTHORIZED)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "inner secret" not in answer.text
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.request_id == answer.headers["x-request-id"]  # type: ignore[attr-defined]
    # The connection survives.
    assert (await client.get(edge.url + "/healthz")).status_code == 200


async def test_raw_routes_are_in_the_docs(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start()
    assert (await client.get(edge.url + "/docs")).status_code == 200
    document = (await client.get(edge.url + "/openapi.json")).json()
    for path, required, optional in (
        (CHAT, {"model", "messages"}, "temperature"),
        ("/v1/responses", {"model"}, "previous_response_id"),
        ("/v1/responses/input_tokens", {"model"}, "input"),
    ):
        post = document["paths"][path]["post"]
        ref = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][ref.rpartition("/")[2]]
        assert required <= set(schema["required"])
        assert optional in schema["properties"]
    for path in ("/v1/models", "/v1/models/{model_id}", "/healthz", "/readyz", "/metrics"):
        assert "get" in document["paths"][path]
    names = document["components"]["schemas"]
    refs = _refs(document)
    assert refs
    assert {ref.rpartition("/")[2] for ref in refs} <= set(names)
    assert post["security"][0].keys() <= document["components"]["securitySchemes"].keys()


def _refs(node: object) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(_refs(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_refs(value) for value in node))
    return set()


ORIGIN = {"origin": "https://app.example"}


async def test_cors_covers_raw_routes_their_errors_and_preflight(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start(cors_origins=("https://app.example",))
    url = edge.url + CHAT
    preflight = await client.options(
        url,
        headers=ORIGIN
        | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    assert preflight.headers["x-request-id"].startswith("req_")
    for request, status in (
        (client.post(url, json=body(), headers=AUTHORIZED | ORIGIN), 200),
        (client.post(url, json=body(stream=True), headers=AUTHORIZED | ORIGIN), 200),
        (client.post(url, json=body(), headers=ORIGIN), 401),
        (client.get(edge.url + "/v1/models", headers=AUTHORIZED | ORIGIN), 200),
        (client.get(edge.url + "/nothing", headers=ORIGIN), 404),
    ):
        answer = await request
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers.get_list("x-request-id")[0].startswith("req_")
        assert len(answer.headers.get_list("x-request-id")) == 1
    other = await client.post(
        url, json=body(), headers=AUTHORIZED | {"origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in other.headers


async def test_without_the_setting_there_is_no_cors(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED | ORIGIN)
    assert "access-control-allow-origin" not in answer.headers


async def test_a_cors_request_is_logged_once(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start(cors_origins=("*",))
    answer = await client.post(edge.url + CHAT, json=body(), headers=AUTHORIZED | ORIGIN)
    assert answer.headers["access-control-allow-origin"] == "*"
    (line,) = edge.lines()
    assert line["request_id"] == answer.headers["x-request-id"]


async def test_what_looks_like_a_key_in_a_path_is_not_logged(
    start: Start, client: httpx.AsyncClient
) -> None:
    edge = await start()
    await client.get(f"{edge.url}/v1/files/sk-proj-{'a' * 40}")
    (line,) = edge.lines()
    assert str(line["path"]).startswith("/v1/files/")
    assert "aaaa" not in str(line)


async def test_health_checks_are_not_logged(start: Start, client: httpx.AsyncClient) -> None:
    edge = await start()
    for path in ("/healthz", "/readyz", "/metrics"):
        await client.get(edge.url + path)
    assert edge.lines() == []


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b'{"model": "m\xff", "messages": []}', None),
        (b"[" * 1000 + b"]" * 1000, None),
        (b'{"messages": [{"role": "user", "content": "Hi"}]}', "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": 7, "messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "messages"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "x": '
            + (b'{"a":' * 1000 + b"1" + b"}" * 1000)
            + b"}",
            None,
        ),
        (orjson.dumps(body(temperature=2.1)), "temperature"),
        (orjson.dumps(body(stream="yes")), "stream"),
        (
            b'{"model": "m", "messages": [{"role": "nobody", "content": "Hi"}]}',
            "messages[0].role",
        ),
    ],
)
async def test_a_bad_body_is_a_400_with_its_param(
    start: Start, client: httpx.AsyncClient, content: bytes, param: str | None
) -> None:
    edge = await start()
    headers = AUTHORIZED | {"content-type": "application/json"}
    answer = await client.post(edge.url + CHAT, content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    if param is not None:
        assert answer.json()["error"]["param"] == param
    assert edge.engine.requests == []


def test_the_framework_has_no_route_that_shadows_another() -> None:
    from broker.config import Limits
    from broker.telemetry import Metrics
    from edge.auth import Authenticator
    from tests.edge.http.standin import KeyTable

    app = framework(Engine(), Authenticator(KeyTable()), Metrics("edge"), Limits())
    paths = [
        (method, route.path)  # type: ignore[attr-defined]
        for route in app.routes
        for method in getattr(route, "methods", ())
    ]
    assert len(paths) == len(set(paths))
