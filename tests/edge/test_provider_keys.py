"""Whose key a request is run with: the operator's, one that came with it, or a stored one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Target
from broker.settings import Settings
from broker.v1 import generation_pb2
from broker.vault import Vault
from edge.provider_keys import ProviderKeys

MASTER = "a-master-key-for-tests-0123"
OPENAI, ANTHROPIC = (Target(name, "main", "m", listed=True) for name in ("openai", "anthropic"))


def record(**provider_keys: str) -> KeyRecord:
    vault = Vault([MASTER])
    stored = {p: vault.encrypt(secret, "key_1", p) for p, secret in provider_keys.items()}
    return KeyRecord(id="key_1", name="test", created_at=0.0, provider_keys=stored)


def found(
    *targets: Target,
    use: bool | None = None,
    given: str | None = None,
    key: KeyRecord | None = None,
    settings: Settings | None = None,
) -> tuple[list[Target], dict[str, str]]:
    keys = ProviderKeys(settings or Settings(master_key=(MASTER,)))
    platform = generation_pb2.Platform(use_custom_keys=use)
    left, own = keys.of(platform, key or record(), given, targets)
    return list(left), dict(own)


def refused(*targets: Target, **asked: object) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        found(*targets, **asked)  # type: ignore[arg-type]
    return caught.value


def test_nobody_who_does_not_ask_gets_a_key_of_their_own() -> None:
    for use in (None, False):
        assert found(OPENAI, use=use, key=record(openai="sk-stored")) == ([OPENAI], {})


def test_a_key_in_the_header_is_used_unless_the_body_says_no() -> None:
    for use in (None, True):
        assert found(OPENAI, use=use, given=" sk-own ") == ([OPENAI], {"openai": "sk-own"})
    assert found(OPENAI, use=False, given="sk-own") == ([OPENAI], {})


def test_a_key_in_the_header_is_stronger_than_a_stored_one() -> None:
    _, own = found(OPENAI, use=True, given="sk-own", key=record(openai="sk-stored"))
    assert own == {"openai": "sk-own"}


def test_a_key_in_the_header_goes_to_one_provider_that_the_model_names() -> None:
    error = refused(OPENAI, ANTHROPIC, given="sk-own")
    assert (error.reason, error.param) == ("invalid_request", "model")
    assert "openai/m" in error.message
    other_pool = Target("openai", "second", "m", listed=True)
    assert found(OPENAI, other_pool, given="sk-own")[1] == {"openai": "sk-own"}


def test_who_is_named_for_longer_prompts_alone_gets_nothing_with_the_key_of_another() -> None:
    spare = replace(ANTHROPIC, spare=True)
    assert found(OPENAI, spare, given="sk-own") == ([OPENAI], {"openai": "sk-own"})
    assert found(OPENAI, spare, use=True, key=record(openai="sk-1"))[0] == [OPENAI]
    assert "no key of yours for openai:" in refused(OPENAI, spare, use=True).message
    assert refused(OPENAI, spare, use=True, key=record(anthropic="sk")).row.http == 401


def test_with_stored_keys_only_their_providers_are_candidates() -> None:
    key = record(anthropic="sk-stored")
    left, own = found(OPENAI, ANTHROPIC, use=True, key=key)
    assert (left, own) == ([ANTHROPIC], {"anthropic": "sk-stored"})
    both = record(openai="sk-1", anthropic="sk-2")
    left, own = found(OPENAI, ANTHROPIC, use=True, key=both)
    assert (left, own) == ([OPENAI, ANTHROPIC], {"openai": "sk-1", "anthropic": "sk-2"})


def test_who_asks_for_their_own_key_and_has_none_is_told_how_to_give_it() -> None:
    error = refused(OPENAI, use=True)
    assert error.reason == "invalid_provider_key"
    assert error.row.http == 401
    assert "x-provider-key" in error.message
    assert "millrace key provider-key set key_1 openai" in error.message


@pytest.mark.parametrize("given", ["", "  ", "sk-\x01own-secret", "sk-öwn-secret", "k" * 20_000])
def test_what_no_header_of_a_provider_can_carry_is_refused_unrepeated(given: str) -> None:
    error = refused(OPENAI, given=given)
    assert error.reason == "invalid_provider_key"
    assert "secret" not in error.message
    assert len(error.message) < 200


def test_a_stored_key_that_cannot_be_read_is_ours_to_mend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = record(openai="sk-stored")
    for settings in (Settings(master_key=("another-master-key-0123",)), Settings(data=tmp_path)):
        caplog.clear()
        error = refused(OPENAI, use=True, key=key, settings=settings)
        assert error.row.http == 500
        assert "MILLRACE_MASTER_KEY" in caplog.text
        assert "sk-stored" not in caplog.text + error.message
