"""A YAML file of options."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cli import main, router_options
from router.config import ConfigError
from router.config_file import read, settings

OPTIONS = {option.name: option for option in router_options() if option.name}


def test_values_are_what_would_be_written_on_the_command_line():
    text = """
    port: 8000
    cache-threshold: 0.5   # a comment
    host: "0.0.0.0"
    log_level: debug
    api-key: 0123
    """
    found = settings(text, OPTIONS)
    assert found == {
        "port": "8000",
        "cache_threshold": "0.5",
        "host": "0.0.0.0",
        "log_level": "debug",
        "api_key": "0123",
    }


def test_several_values_are_a_list_or_a_single_one():
    assert settings("worker-urls: [http://a:1, http://b:2]", OPTIONS) == {"worker_urls": ["http://a:1", "http://b:2"]}
    assert settings("worker-urls: http://a:1", OPTIONS) == {"worker_urls": ["http://a:1"]}


def test_words_are_a_list_or_a_line():
    assert settings("engine-args: [--max-model-len, 8192]", {}, ["engine_args"]) == {
        "engine_args": ["--max-model-len", "8192"]
    }
    assert settings("engine-args: --name 'two words'", {}, ["engine_args"]) == {"engine_args": ["--name", "two words"]}


def test_an_empty_file_sets_nothing():
    assert settings("", OPTIONS) == settings("# nothing\n", OPTIONS) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("polcy: random", "polcy is not an option: did you mean policy?"),
        ("cache_treshold: 1", "did you mean cache-threshold?"),
        ("colour: red", "colour is not an option"),
        ("port: 1\nport-: 2", "port- is not an option: did you mean port?"),
        ("log-level: info\nlog_level: debug", "log_level is given twice"),
        ("port: many", "port: 'many' is not a valid integer"),
        ("port: 2.5", "port: '2.5' is not a valid integer"),
        ("policy: on", "policy: 'on' is not one of"),
        ("port:", "port is empty"),
        ("port: [1, 2]", "port holds more than a value: give one value"),
        ("worker-urls: [[a]]", "worker-urls holds more than a value"),
        ("policy: {a: b}", "policy holds more than a value"),
        ("engine-args: {a: b}", "engine-args must be a list of words"),
        ("- port", "it must hold lines such as dp-size: 4"),
        ("port", "it must hold lines such as dp-size: 4"),
        ("port: 1\n  host: x", "line 2: mapping values are not allowed here"),
        ("port: \x00", "it is no YAML"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_would_be_right(text: str, words: str):
    with pytest.raises(ConfigError) as refusal:
        settings(text, OPTIONS, ["engine_args"])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(str(tmp_path / "nowhere.yaml"), OPTIONS)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not text"):
        read(str(tmp_path / "binary"), OPTIONS)


def test_what_is_wrong_in_a_file_is_one_line_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "router.yaml"
    file.write_text("polcy: random\n")
    assert main(["--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert said == f"router: --config {file}: polcy is not an option: did you mean policy?\n"
