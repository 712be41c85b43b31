"""Any HTTP server as an engine: started by the user's own command, known by what OpenAI's API has in common.

Pure, but for check(). Braces that hold no plain name, as in JSON, are left as they are.
"""

from __future__ import annotations

import re
import shlex
import shutil

from launcher.config import LaunchConfig
from launcher.engines import KEYED, Command, installed, key_env
from launcher.errors import BadConfig, EngineMissing
from launcher.plan import WorkerSpec

PLACEHOLDERS = ("model_path", "host", "port", "tp_size")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class CommandEngine:
    """`--engine-command`, a template; it must have {port}, since every replica listens on its own."""

    name = "command"
    ready_path = "/health"
    native_generate = None
    uuid_devices = True

    def check(self, config: LaunchConfig) -> None:
        """Raises BadConfig when the template cannot work, EngineMissing when there is no such program or model."""
        words = _words(config)
        program = words[0]
        if not _PLACEHOLDER.search(program) and shutil.which(program) is None:
            raise EngineMissing(f"--engine-command starts {program}, which is not a program here: install it")
        installed.require_model(config.model_path)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        values = {
            "model_path": config.model_path,
            "host": spec.host,
            "port": str(spec.port),
            "tp_size": str(config.tp_size),
        }
        # Words are split first: a model path with spaces stays one argument.
        argv = (_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in _words(config))
        return Command((*argv, *config.engine_args), key_env(KEYED, spec))


def _words(config: LaunchConfig) -> list[str]:
    template = config.engine_command or ""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise BadConfig(f"--engine-command cannot be split into words: {str(error).lower()}") from error
    names = _PLACEHOLDER.findall(template)
    unknown = next((name for name in names if name not in PLACEHOLDERS), None)
    if unknown is not None:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise BadConfig(f"--engine-command has {{{unknown}}}, which is not known: use {known}")
    if "port" not in names:
        raise BadConfig("--engine-command has no {port}: every replica needs a port of its own")
    return words
