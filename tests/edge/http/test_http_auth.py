from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from broker import keys
from broker.errors import InferenceError
from edge import auth as auth_module
from edge.auth import Authenticator
from tests.edge.http.standin import SECRET, KeyTable, Start, body, until

DIGEST = keys.digest(SECRET)
BEARER = f"Bearer {SECRET}"


@pytest.fixture
def table() -> KeyTable:
    table = KeyTable()
    table.put(SECRET)
    return table


async def refused(auth: Authenticator, given: bytes | str | None) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await auth.authenticate(given)
    return caught.value


@pytest.mark.parametrize(
    "given",
    [BEARER, BEARER.encode(), f"bearer {SECRET}", f"BEARER  {SECRET} "],
)
async def test_a_key_is_found_whatever_the_case_of_the_scheme(
    table: KeyTable, given: bytes | str
) -> None:
    assert (await Authenticator(table).authenticate(given)).name == "test"


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        SECRET.encode(),
        f"Basic {SECRET}".encode(),
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 5000,
    ],
)
async def test_anything_else_is_refused_without_a_read(
    table: KeyTable, given: bytes | None
) -> None:
    error = await refused(Authenticator(table), given)
    assert error.reason == "invalid_api_key"
    assert "Authorization: Bearer" in error.message
    assert table.reads == []


async def test_a_key_is_read_once_however_many_ask_at_once(table: KeyTable) -> None:
    auth = Authenticator(table)
    table.gate = asyncio.Event()
    asking = [asyncio.create_task(auth.authenticate(BEARER)) for _ in range(50)]
    await until(lambda: table.reads)
    asking[0].cancel()  # one that leaves does not take the others with it
    table.gate.set()
    records = await asyncio.gather(*asking[1:])
    assert {record.name for record in records} == {"test"}
    await auth.authenticate(BEARER)
    assert table.reads == [DIGEST]


async def test_an_unknown_key_is_not_looked_up_again_for_a_while(
    table: KeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = Authenticator(table)
    monkeypatch.setattr(auth_module, "UNKNOWN_S", 0.1)
    for _ in range(3):
        assert (await refused(auth, "Bearer mr-new")).reason == "invalid_api_key"
    assert len(table.reads) == 1
    table.put("mr-new")
    found = False
    async with asyncio.timeout(5):
        while not found:
            try:
                found = (await auth.authenticate("Bearer mr-new")).name == "test"
            except InferenceError:
                await asyncio.sleep(0.01)
    assert len(table.reads) == 2


async def test_a_change_takes_effect_at_once(table: KeyTable) -> None:
    auth = Authenticator(table)
    following = asyncio.create_task(auth.follow())
    await until(lambda: table.callback)
    assert (await refused(auth, "Bearer mr-new")).reason == "invalid_api_key"
    table.put("mr-new")
    assert (await auth.authenticate("Bearer mr-new")).name == "test"
    table.put(SECRET, revoked=True)
    error = await refused(auth, BEARER)
    assert (error.reason, "revoked" in error.message) == ("invalid_api_key", True)
    auth.learn(keys.digest("mr-new"), None)
    del table.records[keys.digest("mr-new")]
    assert (await refused(auth, "Bearer mr-new")).reason == "invalid_api_key"
    following.cancel()


@pytest.mark.parametrize("change", ["revoked", "deleted"])
async def test_a_change_during_the_first_read_wins(table: KeyTable, change: str) -> None:
    auth = Authenticator(table)
    table.gate = asyncio.Event()
    asking = asyncio.create_task(auth.authenticate(BEARER))
    await until(lambda: table.reads)
    if change == "revoked":
        auth.learn(DIGEST, KeyTable().put(SECRET, revoked=True))
    else:
        auth.learn(DIGEST, None)
    table.gate.set()
    with pytest.raises(InferenceError) as caught:
        await asking
    assert caught.value.reason == "invalid_api_key"


async def test_known_keys_work_while_the_bucket_is_away_and_others_get_503(
    table: KeyTable,
) -> None:
    auth = Authenticator(table)
    await auth.authenticate(BEARER)
    table.down = True
    assert (await auth.authenticate(BEARER)).name == "test"
    error = await refused(auth, "Bearer mr-other")
    assert (error.reason, error.row.http) == ("broker_unavailable", 503)
    table.down = False
    table.put("mr-other")
    assert (await auth.authenticate("Bearer mr-other")).name == "test"


async def test_a_read_that_hangs_is_given_up(
    table: KeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "LOOKUP_S", 0.05)
    table.gate = asyncio.Event()
    assert (await refused(Authenticator(table), BEARER)).reason == "broker_unavailable"


async def test_memory_is_bounded_and_the_key_used_last_stays(
    table: KeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "CAPACITY", 10)
    auth = Authenticator(table)
    for n in range(50):
        table.put(f"mr-{n}")
        await auth.authenticate(f"Bearer mr-{n}")
        await auth.authenticate(BEARER)
        await refused(auth, f"Bearer mr-unknown-{n}")
        auth.learn(keys.digest(f"mr-told-{n}"), KeyTable().put(f"mr-told-{n}"))
    assert table.reads.count(DIGEST) == 1
    assert len(auth._known) <= 10
    assert len(auth._unknown) <= 10
    assert not auth._lookups


async def test_over_http_a_wrong_key_is_401_and_a_bucket_away_is_503(
    start: Start, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    edge = await start()
    url = edge.url + "/v1/chat/completions"
    wrong = {"authorization": "Bearer mr-wrong-secret"}
    answer = await client.post(url, json=body(), headers=wrong)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "mr-wrong-secret" not in answer.text
    edge.table.down = True
    answer = await client.post(url, json=body(), headers={"authorization": "Bearer mr-newer"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
    assert "retry-after" in answer.headers
    assert b"mr-wrong-secret" not in edge.log.getvalue()
    assert "mr-wrong-secret" not in caplog.text
