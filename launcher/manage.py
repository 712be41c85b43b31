"""The commands that ask and change a node that runs: `launch status`, `launch restart w0`, ... over its HTTP."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from launcher import tables
from launcher.client import DEFAULT_URL, KEY_VARIABLE, Client, Refused, admin_key
from launcher.errors import LaunchError

POLL = 0.5  # seconds between two looks at a log that is followed
READY, NOT_READY = 200, 503  # /readiness


def _command(what: Callable[..., int]) -> click.Command:
    """A command that gets a Client, and whether a program reads its answer; its docstring is its help."""

    @functools.wraps(what)
    def run(url: str, admin_api_key_file: str | None, **params: Any) -> int:
        return what(Client(url, admin_key(admin_api_key_file)), **params)

    for option in reversed(_OPTIONS):
        run = option(run)
    name = what.__name__.strip("_")
    return click.command(name, context_settings={"help_option_names": ["-h", "--help"]})(run)


_OPTIONS = (
    click.option(
        "--url", metavar="URL", envvar="LAUNCH_URL", default=DEFAULT_URL, show_default=True, help="The router."
    ),
    click.option(
        "--admin-api-key-file",
        metavar="FILE",
        envvar="LAUNCH_ADMIN_API_KEY_FILE",
        help=f"File that holds the router's admin key.  [default: what {KEY_VARIABLE} holds]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Answer for programs."),
)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the router's workers, if it answers."""
    with contextlib.suppress(LaunchError, TypeError, KeyError):
        client = Client(ctx.params.get("url") or DEFAULT_URL, admin_key(ctx.params.get("admin_api_key_file")))
        workers = client.call("GET", "/workers", timeout=1.0)["workers"]
        return [CompletionItem(w["id"], help=w["state"]) for w in workers if w["id"].startswith(incomplete)]
    return []


_names = click.argument("names", metavar="WORKER...", nargs=-1, required=True, shell_complete=_complete)


@_command
def status(client: Client, as_json: bool) -> int:
    """Whether it can serve, and how its workers are.

    Exit status 0: ready. 1: not ready, or it does not answer.
    """
    code, readiness = client.ask("GET", "/readiness")
    if code not in (READY, NOT_READY) or not isinstance(readiness, dict):
        raise Refused(code, f"{client.url} is no router of this program: /readiness answers HTTP {code}")
    workers = _workers(client)
    if as_json:
        _print({"url": client.url, "ready": code == READY, **readiness, "workers": workers})
    else:
        click.echo(_readiness(client.url, code, readiness))
        _table(tables.STATUS, workers)
    return 0 if code == READY else 1


def _readiness(url: str, code: int, readiness: dict[str, Any]) -> str:
    count = f"{readiness.get('healthy_workers')} of {readiness.get('total_workers')} workers"
    return f"{url} is ready: {count}" if code == READY else f"{url} is not ready: {readiness.get('reason')}"


@_command
def workers(client: Client, as_json: bool) -> int:
    """All that is known of the workers."""
    found = _workers(client)
    if as_json:
        _print(found)
    else:
        _table(tables.WORKERS, found)
    return 0


@_command
@click.argument("url_of_worker", metavar="URL")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is healthy.")
def add(client: Client, as_json: bool, url_of_worker: str, no_wait: bool) -> int:
    """Add a worker that was started elsewhere, once it is healthy."""
    with _patience(f"waiting until {url_of_worker} is healthy"):
        body = {"url": url_of_worker, "wait": not no_wait}
        worker = client.call("POST", "/workers", body, timeout=None)
    return _done(as_json, [worker], "{id} added: {url}")


@_command
@_names
@click.option("--force", is_flag=True, help="Do not wait for the requests under way.")
def remove(client: Client, as_json: bool, names: Sequence[str], force: bool) -> int:
    """Drain workers, and remove them; one that was launched here is stopped."""
    said = []
    for name in names:
        with _patience(f"draining {name}"):
            said.append(client.call("DELETE", _path(name), timeout=None, force=str(force).lower()))
    return _done(as_json, said, "{message}")


@_command
@_names
def drain(client: Client, as_json: bool, names: Sequence[str]) -> int:
    """Send workers no new requests; those under way go on."""
    said = [client.call("POST", _path(name, "drain")) for name in names]
    return _done(as_json, said, "{id} is {state}, {inflight} requests under way")


@_command
@_names
def undrain(client: Client, as_json: bool, names: Sequence[str]) -> int:
    """Send drained workers requests again."""
    said = [client.call("POST", _path(name, "undrain")) for name in names]
    return _done(as_json, said, "{id} is {state}")


@_command
@click.argument("names", metavar="[WORKER...]", nargs=-1, shell_complete=_complete)
@click.option(
    "--all", "everything", is_flag=True, help="All that were launched there, one at a time: no request is lost."
)
def restart(client: Client, as_json: bool, names: Sequence[str], everything: bool) -> int:
    """Drain workers, and start their engines anew."""
    if bool(names) == everything:
        raise click.UsageError("name the workers, or give --all.")
    if everything:
        with _patience("restarting all workers, one at a time"):
            answer = client.call("POST", "/workers/restart", timeout=None)
        return _done(as_json, [answer], f"restarted {len(answer['restarted'])}, skipped {len(answer['skipped'])}")
    said = []
    for name in names:
        with _patience(f"restarting {name}"):
            said.append(client.call("POST", _path(name, "restart"), timeout=None))
    return _done(as_json, said, "{id} is {state}, pid {pid}")


@_command
@click.argument("name", metavar="WORKER", shell_complete=_complete)
@click.option(
    "-n", "--lines", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many of the last."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what it writes from now on, until Ctrl-C.")
def logs(client: Client, as_json: bool, name: str, lines: int, follow: bool) -> int:
    """What a worker's engine wrote since its last start."""
    path = _path(name, "logs")
    answer = client.call("GET", path, lines=str(lines))
    _log(answer, as_json)
    while follow:
        time.sleep(POLL)
        answer = client.call("GET", path, after=answer["next"])
        _log(answer, as_json)
    return 0


def _log(answer: dict[str, Any], as_json: bool) -> None:
    if as_json and answer["lines"]:
        _print(answer)
    elif answer["lines"]:
        click.echo("\n".join(answer["lines"]))


def _path(name: str, *rest: str) -> str:
    """Workers are named by id or URL."""
    return "/".join(["/workers", quote(name, safe=""), *rest])


def _workers(client: Client) -> list[tables.Worker]:
    workers = client.call("GET", "/workers")["workers"]
    assert isinstance(workers, list)
    return workers


def _table(columns: tables.Columns, workers: list[tables.Worker]) -> None:
    if workers:
        tables.show(tables.table(columns, workers))
    else:
        click.echo("no workers: launch add URL adds one")


def _done(as_json: bool, answers: Sequence[dict[str, Any]], line: str) -> int:
    """What was done: a line for each, or the router's answers."""
    if as_json:
        _print(answers[0] if len(answers) == 1 else list(answers))
    else:
        for answer in answers:
            click.echo(line.format(**answer))
    return 0


def _print(data: object) -> None:
    click.echo(json.dumps(data))


@contextlib.contextmanager
def _patience(what: str) -> Iterator[None]:
    """Show a person that it takes its time."""
    console = Console(stderr=True)
    with console.status(what) if console.is_terminal else contextlib.nullcontext():
        yield


COMMANDS: list[click.Command] = [status, workers, add, remove, drain, undrain, restart, logs]
