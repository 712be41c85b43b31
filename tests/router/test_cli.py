"""The `router` command: its options, its help, and that bad values end in one line."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from router import cli
from router.cli import HELP, flag, main, serve, spread, welcome
from router.config import RouterConfig


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RouterConfig]:
    """The settings that the command line comes to."""

    def parsed(*argv: str, **environ: str) -> RouterConfig:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        seen: list[RouterConfig] = []
        monkeypatch.setattr(cli, "set_up_logging", lambda level, format: None)
        monkeypatch.setattr(cli, "serve", lambda config: seen.append(config))
        monkeypatch.setattr("uvloop.run", lambda _: 0)
        assert main(argv) == 0
        return seen[0]

    return parsed


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a bad command line ends with."""

    def refused(*argv: str) -> str:
        assert main(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("router: ")
        return lines[0]

    return refused


def test_without_options_the_defaults_of_the_settings_hold(parsed):
    assert parsed() == RouterConfig()


def test_every_setting_has_an_option_with_a_text():
    options = {name for option in cli.command.params for name in option.opts}
    for field in dataclasses.fields(RouterConfig):
        assert flag(field.name) in options
        assert HELP[field.name][0]


def test_the_help_shows_every_option_and_its_default(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(RouterConfig):
        assert flag(field.name) in text
    assert "[default: 1800.0]" in text
    assert "[default: least_work]" in text
    assert "ROUTER_MAX_TOTAL_RETRIES" in text
    assert "_ROUTER_COMPLETE=bash_source router" in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"router, version {importlib.metadata.version('llm-launch')}\n"


@pytest.mark.parametrize("argv", [["stray"], ["--nope"], ["--port", "many"]])
def test_what_is_wrong_and_where_to_look_are_two_sentences(refused, argv: list[str]):
    assert ". See router --help" in refused(*argv).replace("..", "?")


PREFILL = (("http://a", 9000), ("http://b", None), ("http://c", None))


@pytest.mark.parametrize(
    "argv",
    [
        ("--prefill", "http://a", "9000", "--prefill", "http://b", "none", "--prefill", "http://c"),
        ("--prefill", "http://a", "9000", "http://b", "none", "http://c"),
    ],
)
def test_prefill_workers_are_given_with_their_bootstrap_ports(parsed, argv: tuple[str, ...]):
    config = parsed("--pd-disaggregation", *argv, "--decode", "http://d", "http://e", "--decode-policy", "random")
    assert (config.prefill, config.decode) == (PREFILL, ("http://d", "http://e"))
    assert (config.prefill_policy, config.decode_policy) == (None, "random")


def test_the_environment_gives_them_the_same_way(parsed):
    words = {"ROUTER_PREFILL": "http://a 9000 http://b none http://c"}
    assert parsed("--pd-disaggregation", **words).prefill == PREFILL


def test_a_file_gives_them_as_a_list(parsed, tmp_path: Path):
    file = tmp_path / "router.yaml"
    file.write_text("pd-disaggregation: true\nprefill: [http://a, 9000, http://b, none, http://c]\n")
    assert parsed("--config", str(file)).prefill == PREFILL


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["9000"], "--prefill has 9000 without a URL before it"),
        (["none", "http://a"], "--prefill has none without a URL before it"),
        (["http://a", "9000", "9001"], "--prefill has 9001 without a URL before it"),
        (["http://a", "9000", "none"], "--prefill has none without a URL before it"),
        (["http://a", "70000"], "has the bootstrap port 70000: it must lie between 1 and 65535"),
        (["http://a", "0"], "has the bootstrap port 0"),
        (["http://a", "1234567890"], "must begin with http:// or https://"),
        (["a:1"], "--prefill: worker URL a:1 must begin with"),
    ],
)
def test_what_is_no_url_with_a_port_is_refused(refused, words: list[str], says: str):
    assert says in refused("--pd-disaggregation", "--prefill", *words)


def test_the_first_line_counts_the_workers_of_each_role():
    config = RouterConfig(pd_disaggregation=True, prefill=PREFILL, decode=("http://d",))
    assert cli._workers(config) == "3 prefill and 1 decode workers"


def test_options_become_settings_of_their_types(parsed):
    config = parsed("--port", "8000", "--cache-threshold", "0.8", "--policy", "round_robin", "--queue-timeout", "5")
    assert (config.port, config.cache_threshold, config.policy, config.queue_timeout) == (8000, 0.8, "round_robin", 5.0)


def test_several_workers_follow_one_option(parsed):
    config = parsed("--worker-urls", "http://a:1", "http://b:2", "--port", "8000")
    assert config.worker_urls == ("http://a:1", "http://b:2")
    assert config.port == 8000


def test_the_option_may_be_repeated_instead(parsed):
    config = parsed("--worker-urls", "http://a:1", "--worker-urls=http://b:2")
    assert config.worker_urls == ("http://a:1", "http://b:2")


def test_no_worker_at_all_is_fine(parsed):
    assert parsed("--worker-urls", "--port", "8000").worker_urls == ()


@pytest.mark.parametrize(
    ("given", "spelt_out"),
    [
        ("--u a b", "--u a --u b"),
        ("--u a b --x 1 --u c", "--u a --u b --x 1 --u c"),
        ("--x 1 2", "--x 1 2"),
        ("--u --x 1", "--x 1"),
        ("--u=a --x 1", "--u=a --x 1"),
    ],
)
def test_values_are_spread_over_options(given: str, spelt_out: str):
    assert spread(given.split(), {"--u"}) == spelt_out.split()


def test_other_options_take_several_values_too(parsed):
    config = parsed("--cors-allowed-origins", "https://a", "https://b", "--request-id-headers", "x-a", "x-b")
    assert config.cors_allowed_origins == ("https://a", "https://b")
    assert config.request_id_headers == ("x-a", "x-b")


def test_every_option_can_come_from_the_environment(parsed):
    config = parsed(ROUTER_PORT="8000", ROUTER_WORKER_URLS="http://a:1 http://b:2", ROUTER_API_KEY="k")
    assert config.port == 8000
    assert config.worker_urls == ("http://a:1", "http://b:2")
    assert config.api_key == "k"


def test_any_option_may_come_from_a_file(parsed, tmp_path: Path):
    file = tmp_path / "router.yaml"
    file.write_text("policy: random\nworker-urls: http://a:1\n")
    config = parsed("--config", str(file))
    assert (config.policy, config.worker_urls) == ("random", ("http://a:1",))


def test_the_command_line_goes_before_the_environment(parsed):
    assert parsed("--port", "9000", ROUTER_PORT="8000").port == 9000


def test_a_key_is_read_from_its_file(parsed, tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("secret\n")
    config = parsed("--api-key-file", str(file), "--admin-api-key", "other")
    assert (config.api_key, config.admin_api_key) == ("secret", "other")


def test_a_key_and_its_file_exclude_each_other(refused, tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("secret")
    assert "give one of them" in refused("--api-key", "k", "--api-key-file", str(file))


def test_a_key_file_must_hold_a_key(refused, tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in refused("--api-key-file", str(tmp_path / "empty"))
    assert "No such file" in refused("--admin-api-key-file", str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not text" in refused("--api-key-file", str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--port", "abc"), "'abc' is not a valid integer"),
        (("--port", "70000"), "--port is 70000: it must lie between 0 and 65535"),
        (("--policy", "fastest"), "'round_robin'"),
        (("--polcy", "random"), "--policy"),
        (("stray",), "stray"),
        (("--ssl-certfile", "cert.pem"), "belong together"),
        (("--worker-urls", "ftp://a"), "--worker-urls: worker URL ftp://a must begin with http://"),
        (("--port",), "requires an argument"),
    ],
)
def test_a_bad_value_is_one_line_that_says_what_would_be_right(refused, argv: tuple[str, ...], words: str):
    assert words in refused(*argv)


def test_the_screen_at_the_start_says_where_it_listens_and_what_to_try():
    screen = welcome("title", RouterConfig(port=0), 30001)
    assert "http://127.0.0.1:30001/docs" in screen
    assert "http://127.0.0.1:30001/\n" in screen
    assert "curl http://127.0.0.1:30001/generate" in screen
    assert "--api-key-file" not in screen


def test_the_screen_warns_when_strangers_may_use_it():
    assert "--api-key-file" in welcome("title", RouterConfig(host="0.0.0.0"), 30000)
    assert "--api-key-file" not in welcome("title", RouterConfig(host="0.0.0.0", api_key="k"), 30000)


def test_the_screen_never_shows_a_key():
    screen = welcome("title", RouterConfig(api_key="secret"), 30000)
    assert "authorization" in screen
    assert "secret" not in screen


def test_the_screen_gives_addresses_that_a_client_can_use():
    assert "curl http://[::1]:30000/" in welcome("title", RouterConfig(host="::"), 30000)
    assert "curl https://127.0.0.1:30000/" in welcome(
        "title", RouterConfig(host="0.0.0.0", ssl_certfile="c", ssl_keyfile="k"), 30000
    )


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_log_lines_are_json_for_programs(logging_restored: None, capsys: pytest.CaptureFixture[str]):
    cli.set_up_logging("info", "json")
    logging.getLogger("router").info('w1 says "%s"', "a\nb")
    try:
        raise ValueError("oh")
    except ValueError:
        logging.getLogger("router").exception("broken")
    cli.greet("title", RouterConfig(log_format="json"), 30000, lambda text: pytest.fail("a screen among the lines"))
    cli.complain("router", "no such port")
    said, broken, greeting, end = map(json.loads, capsys.readouterr().err.splitlines())
    assert said == {"time": said["time"], "level": "info", "message": 'w1 says "a\nb"'}
    assert datetime.fromisoformat(said["time"].replace("Z", "+00:00")).tzinfo is timezone.utc
    assert broken["exception"].endswith("ValueError: oh")
    assert greeting["message"] == "title, listening on http://127.0.0.1:30000"
    assert (end["level"], end["message"]) == ("error", "no such port")


def test_log_lines_are_plain(logging_restored: None, capsys: pytest.CaptureFixture[str]):
    cli.set_up_logging("info")
    logging.getLogger("router").info("w1 ready")
    logging.getLogger("router").debug("not this")
    time, severity, text = capsys.readouterr().err.rstrip("\n").split(" ", 2)
    assert len(time) == len("12:00:01")
    assert (severity, text) == ("INFO", "w1 ready")


def test_the_commands_need_nothing_that_python_3_10_lacks():
    """Its StreamHandler is no generic class. In a process of its own, because the modules are loaded here."""
    code = "import logging; logging.StreamHandler.__class_getitem__ = None; import launcher.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_it_serves_until_a_signal_comes():
    screens: list[str] = []
    task = asyncio.create_task(serve(RouterConfig(port=0), screens.append))
    while not screens:
        await asyncio.sleep(0.01)
    assert "no worker yet" in screens[0]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 0


async def test_a_port_that_is_taken_is_named_and_another_suggested():
    holder = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    router = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", "--port", str(port), stderr=asyncio.subprocess.PIPE
    )
    _, said = await router.communicate()
    holder.close()
    assert router.returncode == 2
    assert said.decode() == f"router: port {port} on 127.0.0.1 is in use: choose another with --port\n"
