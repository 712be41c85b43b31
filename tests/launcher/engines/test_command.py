"""The user's own command as an engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.config import LaunchConfig
from launcher.engines.command import CommandEngine
from launcher.errors import BadConfig, EngineMissing
from launcher.plan import WorkerSpec


def config(template: str, model: str = "org/m", **settings: object) -> LaunchConfig:
    return LaunchConfig(model, engine="command", engine_command=template, **settings)  # type: ignore[arg-type]


def argv(template: str, model: str = "org/m", **settings: object) -> tuple[str, ...]:
    return CommandEngine().command(WorkerSpec(0, 31000), config(template, model, **settings)).argv


def test_the_template_is_filled_and_the_users_arguments_follow():
    filled = argv("serve {model_path} --at={host}:{port} --tp {tp_size}", tp_size=2, engine_args=("-v",))
    assert filled == ("serve", "org/m", "--at=127.0.0.1:31000", "--tp", "2", "-v")


def test_a_value_with_spaces_or_braces_stays_one_argument_as_it_is():
    assert argv("serve {model_path} {port}", model="my {host} model") == ("serve", "my {host} model", "31000")


def test_quotes_and_json_are_left_to_the_user():
    template = """serve -p {port} --json '{"a": {}, "b": {"c": 1}}'"""
    assert argv(template) == ("serve", "-p", "31000", "--json", '{"a": {}, "b": {"c": 1}}')


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("serve {port} {gpu}", r"\{gpu\}, which is not known: use \{model_path\}, \{host\}, \{port\}, \{tp_size\}"),
        ("serve {model_path}", r"no \{port\}"),
        ("", r"no \{port\}"),
        ("serve '{port}", "cannot be split into words: no closing quotation"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, why: str):
    with pytest.raises(BadConfig, match=why):
        CommandEngine().check(config(template))
    with pytest.raises(BadConfig, match=why):
        argv(template)


def test_a_program_that_is_not_there_is_missing():
    CommandEngine().check(config(f"{sys.executable} serve.py {{port}}"))
    with pytest.raises(EngineMissing, match="no-such-program-here, which is not a program"):
        CommandEngine().check(config("no-such-program-here {port}"))


def test_a_local_model_must_be_there(tmp_path: Path):
    template = f"{sys.executable} {{port}}"
    CommandEngine().check(config(template, str(tmp_path)))
    with pytest.raises(EngineMissing, match="does not exist"):
        CommandEngine().check(config(template, str(tmp_path / "gone")))


def test_its_generate_is_to_be_asked():
    assert CommandEngine().native_generate is None
