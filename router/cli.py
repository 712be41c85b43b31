"""The `router` command: argv and environment -> RouterConfig -> exit code; and what both commands share."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import ipaddress
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from router import config_file, loop
from router.app import Router
from router.config import ConfigError, RouterConfig
from router.errors import BadRequest, RouterError
from router.exposition import version
from router.policies import POLICIES
from router.signals import Signals
from router.urls import normalise

log = logging.getLogger(__name__)

# -- options: one per field of RouterConfig, which has the defaults

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

# Of RouterConfig, what concerns workers that nobody launches: options of `router` alone.
PAIRS = ("pd_disaggregation", "prefill", "decode", "prefill_policy", "decode_policy")

# What each option means; a unit is its metavar.
HELP: dict[str, tuple[str, str | None]] = {
    "host": ("Address to listen on. 0.0.0.0 opens the server to the network.", None),
    "port": ("Port to listen on; 0 takes any free one.", None),
    "worker_urls": ("Inference servers to route to, one or more; more can be added while it runs.", "URL ..."),
    "service_discovery": ("Take pods of a Kubernetes cluster as workers, as they come and go.", None),
    "selector": ("Labels of such pods, one or more.", "KEY=VALUE ..."),
    "service_discovery_port": ("Port on which they listen.", None),
    "service_discovery_namespace": ("Their namespace; all of them if none is given.", None),
    "router_replicas": ("Routers over the same workers, this one included.", None),
    "pd_disaggregation": ("Each request goes to a prefill and a decode worker of SGLang's.", None),
    "prefill": (
        "Prefill workers, each with its bootstrap port, or none where it is the default.",
        "URL [PORT|none] ...",
    ),
    "decode": ("Decode workers, one or more.", "URL ..."),
    "prefill_policy": ("How the prefill worker is chosen; as --policy says if it is not given.", None),
    "decode_policy": ("How the decode worker is chosen; as --policy says if it is not given.", None),
    "policy": ("How the worker for a request is chosen.", None),
    "cache_threshold": ("Share of a prompt that must be cached for a cache hit.", "0..1"),
    "balance_abs_threshold": (
        "Imbalanced: the busiest worker has more requests than the idlest by this, and ...",
        None,
    ),
    "balance_rel_threshold": ("... by this factor; then the least busy worker is chosen.", None),
    "eviction_interval": ("Time between two tidyings of the prefix index.", "SECONDS"),
    "max_tree_size": ("Size of the prefix index, all workers together.", "CHARACTERS"),
    "max_worker_retries": ("Consecutive failures before a worker is unavailable.", None),
    "max_total_retries": ("Retries of one request before its error is returned.", None),
    "request_timeout": ("Time until the first byte of an answer; a stream that moves has no limit.", "SECONDS"),
    "max_concurrent_requests": ("Requests under way at once; 0: no limit.", None),
    "queue_size": ("Requests that may wait for their turn; the next gets status 429.", None),
    "queue_timeout": ("How long a request may wait for its turn, then it gets status 503.", "SECONDS"),
    "health_check_interval": ("Time between two probes of a worker.", "SECONDS"),
    "health_check_timeout": ("Time a worker has to answer a probe.", "SECONDS"),
    "health_failure_threshold": ("Failed probes in a row that make a worker unhealthy.", None),
    "health_success_threshold": ("Answered probes in a row that make it healthy again.", None),
    "worker_startup_timeout": ("Time a worker has to become ready: a large model takes minutes to load.", "SECONDS"),
    "drain_timeout": ("How long requests under way may take when the server or a worker stops.", "SECONDS"),
    "api_key": ("Key that clients must send. Other users can read argv: better --api-key-file.", "KEY"),
    "admin_api_key": ("Key for managing workers; without one only this machine may. Better a file.", "KEY"),
    "ssl_certfile": ("Certificate chain (PEM): serve https.", "FILE"),
    "ssl_keyfile": ("The certificate's private key (PEM).", "FILE"),
    "cors_allowed_origins": ("Origins of web pages that may call the API, one or more.", "ORIGIN ..."),
    "max_payload_size": ("Largest request body.", "BYTES"),
    "request_id_headers": ("Headers that may carry a request's id, one or more.", "HEADER ..."),
    "otlp_endpoint": ("OpenTelemetry collector that gets a span of each request, by OTLP over HTTP.", "URL"),
    "log_level": ("How much is logged.", None),
    "log_format": ("How it is logged: lines for people, or an object per line for programs.", None),
}
CHOICES: dict[str, Sequence[str]] = {
    "policy": tuple(POLICIES),
    "prefill_policy": tuple(POLICIES),
    "decode_policy": tuple(POLICIES),
    "log_level": LOG_LEVELS,
    "log_format": LOG_FORMATS,
}
KEYS = ("api_key", "admin_api_key")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def router_options(left_out: Sequence[str] = ()) -> list[click.Option]:
    """An option for each field of RouterConfig but those left out, and a file for each key."""
    fields = [field for field in dataclasses.fields(RouterConfig) if field.name not in left_out]
    options = [option(field, *HELP[field.name], CHOICES.get(field.name)) for field in fields]
    for key in KEYS:
        text = f"File that holds the key of {flag(key)}."
        options.append(click.Option([flag(key) + "-file"], metavar="FILE", type=click.Path(dir_okay=False), help=text))
    return options


def config_option(words: Sequence[str] = ()) -> click.Option:
    """--config: a file of options, under the environment and the command line. `words`: see config_file.settings."""

    def take(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
        if path is not None:
            options = {
                p.name: p for p in ctx.command.params if isinstance(p, click.Option) and p.name and not p.is_eager
            }
            ctx.default_map = {**config_file.read(path, options, words)}

    text = "YAML file of these options, as in 'dp-size: 4'. The environment and the command line go before it."
    return click.Option(["--config"], metavar="FILE", is_eager=True, expose_value=False, callback=take, help=text)


def option(
    field: dataclasses.Field[Any],
    text: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    kind: type | None = None,
) -> click.Option:
    """The option for one field of a settings class, with the field's default and, unless `kind` is given, its type."""
    default = None if field.default is dataclasses.MISSING else field.default
    if default is False:
        return click.Option([flag(field.name)], is_flag=True, default=False, help=text)
    many = isinstance(default, tuple)
    if kind is None and default is not None and not many:
        kind = type(default)
    return click.Option(
        [flag(field.name)],
        type=click.Choice(choices) if choices else kind,
        default=default,
        show_default=default not in (None, ()),
        multiple=many,
        metavar=metavar,
        help=text,
    )


def router_config(params: dict[str, Any]) -> RouterConfig:
    """Settings from the options' values. Raises ConfigError."""
    values = {field.name: params[field.name] for field in dataclasses.fields(RouterConfig) if field.name in params}
    values["prefill"] = with_ports(values.get("prefill", ()))
    urls = {
        "worker_urls": values["worker_urls"],
        "prefill": dict(values["prefill"]),
        "decode": values.get("decode", ()),
    }
    for name, given in urls.items():
        for url in given:
            _check_url(name, url)
    for key in KEYS:
        values[key] = _key(key, values[key], params[key + "_file"])
    return RouterConfig(**values)


def _check_url(option: str, url: str) -> None:
    try:
        normalise(url)
    except BadRequest as error:
        raise ConfigError(f"{flag(option)}: {error.message}") from None


def with_ports(words: Sequence[str]) -> tuple[tuple[str, int | None], ...]:
    """`http://a 9000 http://b none http://c`: each URL with its bootstrap port, if it has one. Raises ConfigError."""
    found: list[tuple[str, int | None]] = []
    for before, word in zip(("", *words), words, strict=False):
        if not re.fullmatch(r"[0-9]{1,9}|none", word):
            found.append((word, None))
        elif not found or before != found[-1][0]:
            raise ConfigError(f"--prefill has {word} without a URL before it: give URL, or URL PORT")
        elif word != "none":
            found[-1] = (before, int(word))
    return tuple(found)


def _key(name: str, given: str | None, file: str | None) -> str | None:
    if file is None:
        return given
    if given is not None:
        raise ConfigError(f"{flag(name)} and {flag(name)}-file are both given: give one of them")
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{flag(name)}-file {file} cannot be read: {reason}") from None
    if not key:
        raise ConfigError(f"{flag(name)}-file {file} is empty: write the key into it")
    return key


class Command(click.Command):
    """A command whose options for several values take them separated by blanks, as in `--worker-urls URL URL`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, several(self)))


def several(command: click.Command) -> set[str]:
    """The options that take several values."""
    return {name for param in command.params if getattr(param, "multiple", False) for name in param.opts}


def spread(args: Iterable[str], several: set[str]) -> list[str]:
    """`--worker-urls a b` -> `--worker-urls a --worker-urls b`, as click reads it; without a value it is dropped."""
    words: list[str] = []
    current = ""
    for word in args:
        if word.startswith("-"):
            current = word if word in several else ""
            words += [] if current else [word]
        elif current:
            words += [current, word]
        else:
            words.append(word)
    return words


def invoke(command: click.Command, name: str, argv: Sequence[str] | None, unknown: str = "") -> int:
    """Run a command; whatever is wrong with its arguments is one line on stderr. Returns the exit code.

    `unknown`: what else to say of an option that is none, and like none.
    """
    try:
        args = None if argv is None else list(argv)
        code = command.main(args, name, standalone_mode=False, auto_envvar_prefix=name.upper())
    except click.ClickException as error:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        more = unknown if isinstance(error, click.NoSuchOption) and not error.possibilities else ""
        complain(name, f"{error.format_message().rstrip('.')}. {more}See {place} --help")
        return error.exit_code
    except (ConfigError, RouterError) as error:
        complain(name, str(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    return int(code or 0)


def complain(name: str, message: str) -> None:
    """The last word of a command that failed: a line on stderr, as an object where the log is made of such."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logging.getLogger(name).error(message)
    else:
        print(f"{name}: {message}", file=sys.stderr)


# -- what people see


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 cannot subscript it
    """Writes to what sys.stderr is at the time: a live table puts itself in front of it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class JsonLines(logging.Formatter):
    """{"time": "2026-01-31T12:00:01.234Z", "level": "info", "message": "w1 ready after 3.2 s"}, one to a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def set_up_logging(level: str, format: str = "text") -> None:
    """Plain lines on stderr: 12:00:01 INFO w1 ready after 3.2 s; or the same as JSON."""
    handler = _Stderr()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if format == "json" else plain)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def greet(title: str, config: RouterConfig, port: int, say: Callable[[str], None]) -> None:
    """Say that it listens: a screen for people, or a line of the log where programs read."""
    if config.log_format == "json":
        log.info("%s, listening on %s", title, own_url(config, port))
    else:
        say(welcome(title, config, port))


def welcome(title: str, config: RouterConfig, port: int) -> str:
    """The screen at the start: where it listens, and what to try first."""
    url = own_url(config, port)
    lines = [
        title,
        f"  API        {url}/v1    described at {url}/docs",
        f"  Dashboard  {url}/",
        f"  Try        {example(config, port)}",
    ]
    if not loopback(config.host) and config.api_key is None:
        lines.append("  Open       whoever reaches this port can use it: --api-key-file sets a key")
    return "\n".join(lines) + "\n"


def own_url(config: RouterConfig, port: int) -> str:
    """Where a client on this machine finds it."""
    return f"{'https' if config.ssl_certfile else 'http'}://{_reachable(config.host)}:{port}"


def example(config: RouterConfig, port: int) -> str:
    """A command that asks it something."""
    key = ' -H "authorization: Bearer $API_KEY"' if config.api_key else ""
    body = """'{"text": "The capital of France is", "sampling_params": {"max_new_tokens": 16}}'"""
    return f"curl {own_url(config, port)}/generate{key} -H 'content-type: application/json' -d {body}"


def announce(text: str) -> None:
    print(text, flush=True)


def _reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# -- the command


def _route(**params: Any) -> int:
    """Route requests to inference servers started elsewhere."""
    config = router_config(params)
    set_up_logging(config.log_level, config.log_format)
    return loop.run(serve(config))


async def serve(config: RouterConfig, say: Callable[[str], None] = announce) -> int:
    """Serve until a signal comes, then drain; a second signal ends it at once with 128 + its number."""
    signals = Signals()
    router = Router(config)
    await router.start()
    try:
        greet(f"router over {_workers(config)}, policy {config.policy}", config, router.port, say)
        await signals.next()
        return await drained(router, config.drain_timeout, signals)
    finally:
        await router.close()


async def drained(router: Router, timeout: float, signals: Signals) -> int:
    """Let requests under way finish: 0, or 128 + the number of a signal that came before they had."""
    log.info("draining, for at most %g s; once more to stop now", timeout)
    drain = asyncio.ensure_future(router.drain(timeout))
    second = asyncio.ensure_future(signals.end())
    await asyncio.wait({drain, second}, return_when=asyncio.FIRST_COMPLETED)
    code = 0 if drain.done() else 128 + second.result()
    drain.cancel()
    second.cancel()
    return code


def _workers(config: RouterConfig) -> str:
    if config.pd_disaggregation:
        return f"{len(config.prefill)} prefill and {len(config.decode)} decode workers"
    count = len(config.worker_urls)
    return f"{count} worker" + ("" if count == 1 else "s") if count else "no worker yet"


EPILOG = """Every option can also be set by an environment variable, --{example} by {NAME}_{EXAMPLE}, or in a file.

Shell completion: eval "$(_{NAME}_COMPLETE=bash_source {name})", or zsh_source, or fish_source."""


def epilog(name: str, example: str) -> str:
    return EPILOG.format(name=name, NAME=name.upper(), example=example, EXAMPLE=example.upper().replace("-", "_"))


command = Command(
    "router",
    callback=_route,
    params=[config_option(), *router_options()],
    help=_route.__doc__,
    epilog=epilog("router", "max-total-retries"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(version(), prog_name="router")(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a drain, 2 for bad settings, 128 + n when a second signal n ended it."""
    return invoke(command, "router", argv)
