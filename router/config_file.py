"""A YAML file of options, each as it would be written on the command line. Pure, but for read()."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import yaml

from router.config import ConfigError

Settings = dict[str, "str | list[str]"]


def read(path: str, options: Mapping[str, click.Option], words: Sequence[str] = ()) -> Settings:
    """What the file says, by the options' names. Raises ConfigError when it cannot be read or used."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"--config {path} cannot be read: {reason}") from None
    try:
        return settings(text, options, words)
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from None


def settings(text: str, options: Mapping[str, click.Option], words: Sequence[str] = ()) -> Settings:
    """The values by the options' names, `dp-size` and `dp_size` being one. Raises ConfigError.

    `words` are names that stand for a list of words, which need not be an option.
    """
    found: Settings = {}
    for key, value in _mapping(text).items():
        name = key.replace("-", "_")
        if name not in options and name not in words:
            raise ConfigError(f"{key} is not an option{_nearest(key, [*options, *words])}")
        if name in found:
            raise ConfigError(f"{key} is given twice: give it once")
        found[name] = _words(key, value) if name in words else _value(key, value, options[name])
    return found


def _mapping(text: str) -> dict[str, object]:
    try:
        # Every scalar stays the text that it is: what `on`, 010 or 1:30 mean is the option's business.
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}{getattr(error, 'problem', None) or 'it is no YAML'}") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError("it must hold lines such as dp-size: 4")
    return data


def _nearest(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), names, 1)
    return f": did you mean {near[0].replace('_', '-')}?" if near else ""


def _value(key: str, value: object, option: click.Option) -> str | list[str]:
    """The text of the value, after a look whether the option would take it."""
    texts = value if isinstance(value, list) and option.multiple else [value]
    for text in texts:
        if not isinstance(text, str):
            one = "give one value, or a list of them" if option.multiple else "give one value"
            raise ConfigError(f"{key} holds more than a value: {one}")
        if not text:
            raise ConfigError(f"{key} is empty: give a value, or leave it out")
        try:
            option.type.convert(text, option, None)
        except click.BadParameter as error:
            raise ConfigError(f"{key}: {error.message.rstrip('.')}") from None
    return [str(text) for text in texts] if option.multiple else str(value)


def _words(key: str, value: object) -> list[str]:
    words = shlex.split(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{key} must be a list of words, or a line of them")
    return words
