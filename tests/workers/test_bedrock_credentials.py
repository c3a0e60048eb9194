from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.errors import InferenceError
from tests.workers.anthropic_hub import request, user
from tests.workers.upstream.peer import Connection, Peer
from workers import credentials, registry
from workers.credentials.aws import AwsCredentials
from workers.failures import Limits
from workers.provider import Call, Credentials, Provider
from workers.upstream import Upstream

BEDROCK = registry.provider("bedrock")
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
URL = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/m%3A0/converse"
CALL = Call("/model/m%3A0/converse", b"{}", {"content-type": "application/json"})
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
PAIR = f"AKIAIOSFODNN7EXAMPLE:{SECRET}"
VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
)


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of the machine that runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def own(**quirks: str) -> Credentials:
    found = credentials.load(replace(BEDROCK, quirks=quirks))
    assert found is not None
    return found


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def signature(
    headers: Mapping[str, str], path: str, body: bytes, secret: str, method: str = "POST"
) -> tuple[str, str]:
    """Scope and signature that a call must have, by AWS's description of version 4."""
    words = dict(
        part.split("=", 1)
        for part in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    )
    signed = words["SignedHeaders"].split(";")
    path, _, query = path.partition("?")
    canonical = "\n".join(
        [
            method,
            path.replace("%", "%25"),
            "&".join(sorted(query.split("&"))),
            *(f"{name}:{headers[name]}" for name in signed),
            "",
            ";".join(signed),
            hashed(body),
        ]
    )
    _, scope = words["Credential"].split("/", 1)
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashed(canonical.encode())])
    key = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert words["Signature"] == key.hex()
    return words["Credential"].split("/")[0], scope


async def sign(found: Credentials, key: str | None = None, url: str = URL) -> Mapping[str, str]:
    return await found.headers(key, CALL, url)


async def test_an_api_key_is_a_bearer_and_loads_nothing() -> None:
    assert await sign(own(), "ABSKkey") == {"authorization": "Bearer ABSKkey"}
    code = (
        "import asyncio, sys\n"
        "from workers import credentials, registry\n"
        "from workers.provider import Call\n"
        "found = credentials.load(registry.provider('bedrock'))\n"
        "asyncio.run(found.headers('k', Call('/', b''), 'https://x/'))\n"
        "print('botocore.auth' in sys.modules, 'botocore.session' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


async def test_a_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(InferenceError) as caught:
        await sign(own(), "two\nlines")
    assert caught.value.reason == "upstream_credentials"


@pytest.mark.parametrize("token", ["", ":session-token"])
async def test_a_pair_of_keys_signs(token: str) -> None:
    headers = dict(await sign(own(), PAIR + token))
    assert headers.get("x-amz-security-token") == (token[1:] or None)
    host = {"host": "bedrock-runtime.eu-west-1.amazonaws.com"}
    who, scope = signature({**headers, **host}, CALL.path, CALL.body, SECRET)
    assert who == "AKIAIOSFODNN7EXAMPLE"
    assert scope.split("/")[1:] == ["eu-west-1", "bedrock", "aws4_request"]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("bedrock-runtime.eu-central-1.api.aws", "eu-central-1"),
        ("vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
        ("bedrock-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("lines.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3-fips.us-west-2.amazonaws.com", "us-west-2"),
        ("127.0.0.1:9900", "ap-south-1"),
        ("bedrock.example.com", "ap-south-1"),
    ],
)
async def test_the_region_is_the_hosts_else_the_operators(host: str, region: str) -> None:
    headers = await sign(own(region="ap-south-1"), PAIR, f"https://{host}/model/m%3A0/converse")
    assert f"/{region}/bedrock/" in headers["authorization"]


async def test_the_environment_and_profiles_are_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = f"[work]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(text)
    assert "Credential=AKIAPROFILE/" in (await sign(own(profile="work")))["authorization"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert "Credential=AKIAENVIRONMENT/" in (await sign(own()))["authorization"]


async def test_credentials_that_end_are_renewed(tmp_path: Path) -> None:
    """By a real process, as `credential_process` of AWS's configuration has it."""
    count = tmp_path / "count"
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    script = tmp_path / "give.py"
    script.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "n = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(n))\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'ASIANUMBER{n}', "
        f"'SecretAccessKey': 's', 'SessionToken': 't', 'Expiration': {ends!r}}}))\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    found = own()
    seen = {(await sign(found))["authorization"].split("/")[0] for _ in range(2)}
    # Five minutes are so near the end that every call asks for new ones.
    assert len(seen) == 2
    script.write_text("raise SystemExit('/home/ops/secret')\n")
    with pytest.raises(InferenceError) as caught:
        await sign(found)
    assert caught.value.reason == "upstream_credentials"
    assert "secret" not in caught.value.message


async def test_without_credentials_the_call_fails_and_the_chain_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = own()
    for _ in range(2):
        with pytest.raises(InferenceError, match="BEDROCK_API_KEY"):
            await sign(found)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALATER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(InferenceError):
        await sign(found)
    assert isinstance(found, AwsCredentials)
    found._rests_until = 0.0
    assert "AKIALATER" in (await sign(found))["authorization"]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async def script(conn: Connection) -> None:
        while True:
            await conn.request()
            await conn.answer()

    served = Peer(script)
    server = await asyncio.start_server(served.run, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    yield served
    served.abort()
    server.close()


async def send(provider: Provider, call: Call, key: str | None) -> None:
    upstream = Upstream(provider, credentials=credentials.load(provider))
    try:
        reply = await upstream.open(call, key=key, limits=Limits(deadline_s=20))
        await reply.read()
        await reply.aclose()
    finally:
        await upstream.close()


async def test_what_arrives_is_what_was_signed(peer: Peer) -> None:
    there = replace(BEDROCK, base_url=f"http://127.0.0.1:{peer.port}")
    call = there.dialect.call(request(user("é"), stream=True), MODEL, there)
    await send(there, call, PAIR)
    [got] = peer.requests
    path = got.line.split()[1]
    assert path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"
    signature(got.headers, path, got.body, SECRET)
    assert json.loads(got.body)["messages"] == [{"role": "user", "content": [{"text": "é"}]}]


async def test_objects_are_signed_for_their_bucket_whatever_the_key_is(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(BEDROCK, base_url="http://127.0.0.1:9", quirks={"region": "eu-west-1"})
    bucket = f"http://127.0.0.1:{peer.port}/lines"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    lines = {"content-type": "application/jsonl"}
    for key, who in ((PAIR, "AKIAIOSFODNN7EXAMPLE"), ("ABSKkey", "AKIAENVIRONMENT")):
        for method, body in (("PUT", b"line\n" * (1 << 18)), ("GET", b""), ("DELETE", b"")):
            path = "/of/ours/a-b.jsonl"
            call = Call(path, body, lines, method=method, base_url=bucket, service="s3")
            await send(there, call, key)
            got = peer.requests.pop()
            assert got.line.split()[:2] == [method, f"/lines{path}"]
            assert got.body == body
            found, scope = signature(got.headers, f"/lines{path}", body, SECRET, method)
            assert (found, scope.split("/")[1:]) == (who, ["eu-west-1", "s3", "aws4_request"])
            assert got.headers["x-amz-content-sha256"] == hashed(body)
            assert "x-amz-content-sha256" in got.headers["authorization"]


async def test_a_query_is_signed(peer: Peer) -> None:
    there = replace(BEDROCK, base_url=f"http://127.0.0.1:{peer.port}")
    path = "/model-invocation-jobs?nameContains=n&maxResults=9&nextToken=a%2Fb%3D"
    await send(there, Call(path, method="GET"), PAIR)
    [got] = peer.requests
    assert got.line.split()[1] == path
    signature(got.headers, path, b"", SECRET, "GET")


async def test_a_call_to_another_region_goes_to_its_host(peer: Peer) -> None:
    call = replace(CALL, base_url=f"http://localhost:{peer.port}/elsewhere")
    await send(replace(BEDROCK, base_url="http://127.0.0.1:9"), call, "k")
    [got] = peer.requests
    assert got.line.startswith("POST /elsewhere/model/m%3A0/converse ")
    assert got.headers["host"] == f"localhost:{peer.port}"
    assert got.headers["authorization"] == "Bearer k"


def test_the_host_follows_from_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BEDROCK.configure is not None
    with pytest.raises(ValueError, match="region"):
        BEDROCK.configure(replace(BEDROCK, quirks={"region": "evil.example.com/"}))
    hosts = {
        region: BEDROCK.configure(replace(BEDROCK, quirks={"region": region})).base_url
        for region in ("eu-west-1", "cn-north-1")
    }
    assert hosts == {
        "eu-west-1": "https://bedrock-runtime.eu-west-1.amazonaws.com",
        "cn-north-1": "https://bedrock-runtime.cn-north-1.amazonaws.com.cn",
    }
