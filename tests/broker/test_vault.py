"""Callers' own provider keys at rest: readable with the master key, and in their own place only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from broker.settings import Settings
from broker.vault import FILE, Vault, VaultError, make_master_key, open_vault

OLD, NEW = "old-master-key-0123456789", "new-master-key-0123456789"
SECRET = "sk-own-0123456789"


def test_what_was_encrypted_is_decrypted_and_never_looks_the_same_twice() -> None:
    vault = Vault([NEW])
    stored = [vault.encrypt(SECRET, "key_1", "openai") for _ in range(2)]
    assert stored[0] != stored[1]
    for text in stored:
        assert SECRET not in text
        assert vault.decrypt(text, "key_1", "openai") == SECRET


@pytest.mark.parametrize("place", [("key_2", "openai"), ("key_1", "anthropic")])
def test_moved_to_another_key_or_provider_it_cannot_be_read(place: tuple[str, str]) -> None:
    vault = Vault([NEW])
    with pytest.raises(VaultError):
        vault.decrypt(vault.encrypt(SECRET, "key_1", "openai"), *place)


@pytest.mark.parametrize("stored", ["", "1.", "1.!", "1.AAAA", "2.AAAA", SECRET, "1.ünï"])
def test_what_nobody_encrypted_is_an_error_that_says_what_to_do(stored: str) -> None:
    with pytest.raises(VaultError, match="MILLRACE_MASTER_KEY") as caught:
        Vault([NEW]).decrypt(stored, "key_1", "openai")
    assert SECRET not in str(caught.value)


def test_a_changed_bit_is_noticed() -> None:
    vault = Vault([NEW])
    stored = vault.encrypt(SECRET, "key_1", "openai")
    at = len(stored) // 2
    changed = stored[:at] + ("A" if stored[at] != "A" else "B") + stored[at + 1 :]
    with pytest.raises(VaultError):
        vault.decrypt(changed, "key_1", "openai")


def test_a_master_key_is_changed_by_putting_a_new_one_first() -> None:
    before = Vault([OLD]).encrypt(SECRET, "key_1", "openai")
    both = Vault([NEW, OLD])
    assert both.decrypt(before, "key_1", "openai") == SECRET
    after = both.encrypt(SECRET, "key_1", "openai")
    assert Vault([NEW]).decrypt(after, "key_1", "openai") == SECRET
    with pytest.raises(VaultError):
        Vault([OLD]).decrypt(after, "key_1", "openai")


def test_a_generated_master_key_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    make_master_key(tmp_path)
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stored = open_vault(Settings(data=tmp_path)).encrypt(SECRET, "key_1", "openai")
    make_master_key(tmp_path)
    assert open_vault(Settings(data=tmp_path)).decrypt(stored, "key_1", "openai") == SECRET
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_setting_is_stronger_than_the_file(tmp_path: Path) -> None:
    make_master_key(tmp_path)
    stored = open_vault(Settings(data=tmp_path, master_key=(NEW,))).encrypt(SECRET, "k", "openai")
    assert Vault([NEW]).decrypt(stored, "k", "openai") == SECRET


def test_without_a_master_key_the_error_says_where_to_put_one(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="MILLRACE_MASTER_KEY"):
        open_vault(Settings(data=tmp_path))
    (tmp_path / FILE).write_text("\n")
    with pytest.raises(VaultError, match="MILLRACE_MASTER_KEY"):
        open_vault(Settings(data=tmp_path))
