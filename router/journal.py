"""Says in the log what becomes of the workers: who came, who left, who takes requests and who does not, and why."""

from __future__ import annotations

import logging

from router.fleet import Fleet, State, Worker

log = logging.getLogger(__name__)

TROUBLE = (State.UNHEALTHY, State.BACKOFF, State.FAILED)


def keep(fleet: Fleet) -> None:
    """Write about everything that happens in the fleet from now on."""
    fleet.on_add.append(_came)
    fleet.on_state.append(_changed)
    fleet.on_remove.append(_left)


def _came(worker: Worker) -> None:
    if worker.handle is None:  # of its own workers the launcher says more
        log.info("%s added: %s", worker.id, worker.url)


def _left(worker: Worker) -> None:
    log.info("%s removed: %s", worker.id, worker.url)


def _changed(worker: Worker, old: State, new: State, reason: str) -> None:
    """The launcher tells the lives of its own workers, and gives no reason when one is ready."""
    if worker.handle is not None and (worker.lifecycle is not State.READY or not reason):
        return
    why = "" if reason == new.value else f" ({reason})"
    log.log(logging.WARNING if new in TROUBLE else logging.INFO, "%s is %s%s", worker.id, new.value, why)
