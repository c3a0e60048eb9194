"""Tokens for Google Cloud, from a token service on a real socket, by the real google-auth."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.errors import InferenceError
from workers import credentials, registry
from workers.credentials import google
from workers.provider import Call

CALL = Call("/x", b"{}")
URL = "https://aiplatform.googleapis.com/x"


class TokenService:
    """Gives the tokens `ya29.1`, `ya29.2`, ... that last as long as `life_s` says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.life_s = 3600
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["content-length"]))
                service.asked.append(parse_qs(form.decode()))
                number = len(service.asked)
                service.open.wait(10)
                answer = {"access_token": f"ya29.{number}", "expires_in": service.life_s}
                if service.status != 200:
                    answer = {"error": "invalid_grant", "error_description": "Invalid signature."}
                body = json.dumps(answer).encode()
                self.send_response(service.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def service() -> Iterator[TokenService]:
    service = TokenService()
    yield service
    service.close()


@pytest.fixture
def account(service: TokenService, private_key: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "client_email": "worker@p.iam.gserviceaccount.com",
        "private_key": private_key,
        "project_id": "p",
        "token_uri": service.url,
    }


@pytest.fixture
def machine(account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "paying")


def signer() -> google.GoogleCredentials:
    return google.GoogleCredentials()


async def until(done: object, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not done():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_the_machines_account_gives_a_token_that_many_calls_share(
    machine: None, service: TokenService
) -> None:
    signs = signer()
    given = await asyncio.gather(*(signs.headers(None, CALL, URL) for _ in range(20)))
    assert all(headers == given[0] for headers in given)
    assert given[0]["authorization"] == "Bearer ya29.1"
    assert given[0]["x-goog-user-project"] == "paying"
    [asked] = service.asked
    assert asked["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = asked["assertion"][0].split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert said["scope"] == google.SCOPE
    assert said["iss"] == "worker@p.iam.gserviceaccount.com"


async def test_a_token_is_renewed_ahead_of_its_end_without_keeping_calls_waiting(
    machine: None, service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "_PAUSE_S", 0.0)
    signs = signer()
    service.life_s = 200  # less than a token is renewed ahead
    assert (await signs.headers(None, CALL, URL))["authorization"] == "Bearer ya29.1"
    service.open.clear()
    service.life_s = 3600
    begun = time.monotonic()
    for _ in range(5):
        assert (await signs.headers(None, CALL, URL))["authorization"] == "Bearer ya29.1"
    assert time.monotonic() - begun < 1
    await until(lambda: len(service.asked) == 2)
    service.open.set()
    async with asyncio.timeout(5):
        while (await signs.headers(None, CALL, URL))["authorization"] == "Bearer ya29.1":
            await asyncio.sleep(0.005)
    assert len(service.asked) == 2


async def test_a_caller_who_gives_up_waiting_does_not_take_the_token_from_the_others(
    machine: None, service: TokenService
) -> None:
    signs = signer()
    service.open.clear()
    waits = [asyncio.create_task(signs.headers(None, CALL, URL)) for _ in range(2)]
    await until(lambda: service.asked)
    waits[0].cancel()
    await asyncio.wait(waits[:1])
    service.open.set()
    assert (await waits[1])["authorization"] == "Bearer ya29.1"


async def test_a_refused_token_is_fetched_anew_but_not_by_every_call(
    machine: None, service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "_PAUSE_S", 1.0)
    signs = signer()
    await signs.headers(None, CALL, URL)
    signs.refused(None)  # just made: another one would fare no better
    await signs.headers(None, CALL, URL)
    assert len(service.asked) == 1
    async with asyncio.timeout(5):
        while len(service.asked) == 1:
            signs.refused(None)
            last = await signs.headers(None, CALL, URL)
            await asyncio.sleep(0.01)
    assert last["authorization"] == "Bearer ya29.2"


@pytest.mark.parametrize("written", ["json", "base64", "indented base64"])
async def test_a_key_can_be_a_service_accounts_json(
    account: dict[str, str],
    service: TokenService,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
) -> None:
    monkeypatch.setattr(google, "TOKEN_URL", service.url)
    text = json.dumps(account, indent=2 if written.startswith("indented") else None)
    key = text if written == "json" else base64.b64encode(text.encode()).decode()
    headers = await signer().headers(key, CALL, URL)
    assert headers["authorization"] == "Bearer ya29.1"


async def test_a_key_cannot_send_its_signature_elsewhere(
    account: dict[str, str], service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TokenService()
    try:
        monkeypatch.setattr(google, "TOKEN_URL", other.url)
        await signer().headers(json.dumps(account), CALL, URL)
        assert (len(service.asked), len(other.asked)) == (0, 1)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("ya29.abc", {"authorization": "Bearer ya29.abc"}),
        ("AIzaSyA-1", {"x-goog-api-key": "AIzaSyA-1"}),
    ],
)
async def test_other_keys_are_sent_as_they_are(key: str, headers: dict[str, str]) -> None:
    assert await signer().headers(key, CALL, URL) == headers


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("AIza\r\nx: y", "none of Google's"),
        ("{", "not valid JSON"),
        ('{"type": "external_account"}', "not a service account's"),
        ('{"type": "service_account"}', "cannot be used"),
    ],
)
async def test_a_key_that_cannot_be_used_says_why_and_stays_secret(key: str, said: str) -> None:
    with pytest.raises(InferenceError, match=said) as caught:
        await signer().headers(key, CALL, URL)
    assert caught.value.reason == "upstream_credentials"
    assert "AIza" not in caught.value.message


async def test_a_token_that_is_denied_is_a_matter_of_credentials(
    machine: None, service: TokenService
) -> None:
    service.status = 400
    with pytest.raises(InferenceError, match="invalid_grant") as caught:
        await signer().headers(None, CALL, URL)
    assert caught.value.reason == "upstream_credentials"


async def test_a_token_service_out_of_reach_is_no_matter_of_credentials(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account | {"token_uri": "http://127.0.0.1:1/token"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(InferenceError) as caught:
        await signer().headers(None, CALL, URL)
    assert caught.value.reason == "upstream_unreachable"


async def test_a_machine_without_credentials_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(InferenceError, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        await signer().headers(None, CALL, URL)
    assert caught.value.reason == "upstream_credentials"


def test_google_auth_is_loaded_with_the_first_token_and_by_no_other_provider() -> None:
    code = (
        "import sys, workers.runner; from workers import registry, credentials;"
        "assert credentials.load(registry.provider('gemini')) is None;"
        "heavy = lambda: [m for m in sys.modules if m.startswith(('google.auth', 'requests'))];"
        "assert not heavy(); assert 'workers.credentials.google' not in sys.modules;"
        "credentials.load(registry.provider('vertex_ai')); assert not heavy()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vertex_ai_names_its_credentials() -> None:
    assert isinstance(credentials.load(registry.provider("vertex_ai")), google.GoogleCredentials)
