"""The `launch` command: its options, what goes to the engine, and that bad values end in one line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from launcher import __version__, cli, run
from launcher.cli import main
from launcher.config import LaunchConfig
from launcher.errors import NoGpu
from router.cli import PAIRS
from router.config import RouterConfig

PAGE = Path(__file__).parents[2] / "scripts" / "howto" / "one-node.md"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LaunchConfig]:
    """The settings that the command line comes to."""

    def parsed(*argv: str, **environ: str) -> LaunchConfig:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        seen: list[LaunchConfig] = []
        monkeypatch.setattr(cli, "set_up_logging", lambda level, format: None)
        monkeypatch.setattr(run, "run", seen.append)
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
        assert lines[0].startswith("launch: ")
        return lines[0]

    return refused


def test_the_model_is_all_that_must_be_given(parsed):
    assert parsed("--model-path", "m") == LaunchConfig(model_path="m")


def test_a_launch_without_a_model_says_what_a_model_can_be(refused):
    assert "'demo'" in refused()


def test_every_setting_has_an_option():
    options = {name for option in cli.command.params for name in option.opts}
    for field in dataclasses.fields(LaunchConfig):
        if field.name not in ("router", "engine_args"):
            assert cli.option(field, "").opts[0] in options
    for field in dataclasses.fields(RouterConfig):
        assert (cli.option(field, "").opts[0] in options) is (field.name not in PAIRS)


def test_no_option_is_there_twice():
    names = [option.opts[0] for option in cli.command.params]
    assert len(names) == len(set(names))


def test_options_become_settings_of_their_types(parsed):
    config = parsed("--model-path", "m", "--dp-size", "4", "--tp-size", "2", "--engine", "vllm", "--stop-timeout", "3")
    assert (config.dp_size, config.tp_size, config.engine, config.stop_timeout) == (4, 2, "vllm", 3.0)


def test_the_routers_options_are_options_of_launch(parsed):
    config = parsed("--model-path", "m", "--port", "8000", "--worker-urls", "http://a:1", "http://b:2")
    assert config.router.port == 8000
    assert config.router.worker_urls == ("http://a:1", "http://b:2")


def test_times_that_both_need_are_given_once(parsed):
    config = parsed("--model-path", "m", "--drain-timeout", "7", "--worker-startup-timeout", "60")
    assert config.drain_timeout == config.router.drain_timeout == 7
    assert config.worker_startup_timeout == config.router.worker_startup_timeout == 60


def test_what_follows_two_dashes_is_for_the_engine_as_it_is(parsed):
    config = parsed("--model-path", "m", "--", "--port", "1", "--worker-urls", "a", "b", "--", "-x")
    assert config.engine_args == ("--port", "1", "--worker-urls", "a", "b", "--", "-x")
    assert config.router.port == RouterConfig().port


def test_a_word_that_belongs_to_no_option_is_refused(refused):
    assert "'max-model-len' is not an option: what is for the engine goes after --" in refused(
        "--model-path", "m", "max-model-len"
    )


def test_every_option_can_come_from_the_environment(parsed):
    config = parsed(LAUNCH_MODEL_PATH="m", LAUNCH_DP_SIZE="4", LAUNCH_POLICY="round_robin", LAUNCH_ENGINE="sim")
    assert (config.model_path, config.dp_size, config.engine) == ("m", 4, "sim")
    assert config.router.policy == "round_robin"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--model-path", "m", "--dp-size", "none"), "'none' is not a valid integer"),
        (("--model-path", "m", "--dp-size", "0"), "--dp-size is 0"),
        (("--model-path", "m", "--engine", "nope"), "'llama.cpp'"),
        (("--model-path", "m", "--dp-sise", "2"), "--dp-size"),
        (("--model-path", "m", "--mem-fraction-static", "0.9"), "goes after --"),
        (("--model-path", "m", "--engine", "command"), "belong together"),
        (("--model-path", "m", "--port", "70000"), "--port is 70000"),
        (("--model-path", "m", "--cluster", "slurm"), "'ray'"),
        (("--model-path", "m", "--ray-address", "head:6379"), "--ray-address is for --cluster ray"),
        (("doctor", "--cluster", "ray"), "run it on the cluster's nodes"),
    ],
)
def test_a_bad_value_is_one_line_that_says_what_would_be_right(refused, argv: tuple[str, ...], words: str):
    assert words in refused(*argv)


def test_a_launch_that_fails_ends_with_one_line_and_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(config: LaunchConfig) -> int:
        raise NoGpu("too few GPUs")

    monkeypatch.setattr(cli, "set_up_logging", lambda level, format: None)
    monkeypatch.setattr(run, "run", fails)
    assert main(["--model-path", "m"]) == 3
    assert capsys.readouterr().err == "launch: too few GPUs\n"


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """The name of a file that holds this."""

    def file(text: str) -> str:
        (tmp_path / "node.yaml").write_text(text)
        return str(tmp_path / "node.yaml")

    return file


def test_any_option_may_come_from_a_file(parsed, file):
    config = parsed("--config", file("model-path: m\ndp_size: 4\nport: 8000\nworker-urls: [http://a:1, http://b:2]"))
    assert (config.model_path, config.dp_size, config.router.port) == ("m", 4, 8000)
    assert config.router.worker_urls == ("http://a:1", "http://b:2")


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(parsed, file):
    name = file("model-path: m\ndp-size: 2\ntp-size: 2\nport: 1002\nengine-args: --of-the file")
    config = parsed(
        "--dp-size", "4", "--", "--of-the", "line", LAUNCH_CONFIG=name, LAUNCH_DP_SIZE="3", LAUNCH_TP_SIZE="3"
    )
    assert (config.dp_size, config.tp_size, config.router.port) == (4, 3, 1002)
    assert config.engine_args == ("--of-the", "line")


def test_what_is_for_the_engine_may_come_from_a_file(parsed, file):
    config = parsed("--config", file("model-path: m\nengine-args: [--max-model-len, 8192]"))
    assert config.engine_args == ("--max-model-len", "8192")


def test_the_file_of_the_page_can_be_used(parsed, file, tmp_path: Path):
    (tmp_path / "api-key").write_text("k")
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    config = parsed("--config", file(text.replace("/etc/llm-launch", str(tmp_path))))
    assert (config.dp_size, config.router.policy, config.router.api_key) == (4, "least_work", "k")
    assert config.engine_args == ("--mem-fraction-static", "0.9")


@pytest.mark.parametrize("text", ["dp-sise: 4", "dry-ran: 1", "config: other.yaml\ndp-sise: 4", "help: 1"])
def test_a_file_with_an_unknown_key_is_refused(refused, file, text: str):
    assert "is not an option" in refused("--config", file(text))


def test_a_dry_run_shows_the_commands_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "set_up_logging", lambda level, format: None)
    monkeypatch.setattr(run, "run", lambda config: pytest.fail("started"))
    assert main(["--dry-run", "--engine", "sim", "--model-path", "any", "--dp-size", "2", "--", "--label", "a b"]) == 0
    title, router, *rest = capsys.readouterr().out.splitlines()
    assert "any, 2 x sim on CPU" in title
    assert router == f"router  http://127.0.0.1:30000, policy {RouterConfig().policy}"
    assert [line[:2] for line in rest] == ["w0", "  ", "w1", "  "]
    assert rest[1].endswith("--label 'a b'")


def test_a_word_that_is_nearly_a_command_is_taken_for_one(refused):
    assert "'statsu' is no command (did you mean status?)" in refused("statsu")


def test_a_command_goes_first(refused):
    assert "'status' goes first" in refused("--model-path", "m", "status")


def test_a_launchs_own_settings_are_nothing_to_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LAUNCH_DP_SIZE", "many")
    monkeypatch.setenv("LAUNCH_URL", f"http://127.0.0.1:{unused_port()}")
    assert main(["status"]) == 1
    assert "nothing listens" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"launch, version {__version__}\n"


def test_the_help_says_how_to_reach_the_engine(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: launch [OPTIONS] [COMMAND] [-- ENGINE OPTIONS]")
    assert "LAUNCH_DP_SIZE" in text
