"""What other routers have probably sent where, for a router that does not see it. Pure."""

from __future__ import annotations

from typing import Final

from router.fleet import Worker
from router.policies.rendezvous import Rendezvous, key_of
from router.request import RouteRequest

# Shares are means over some REMEMBERED requests.
REMEMBERED: Final = 100
# How much more of a prompt is held at its home than this router finds of prompts by itself. Eight simulated workers,
# mean TTFT at 1.0, 1.3, 1.6: with four routers agents 0.146, 0.109, 0.100 s and conversations 0.78, 0.79, 0.77 s; with
# two agents 0.087, 0.088, 0.117 s.
MORE: Final = 1.3
# Never all of it: the end of a prompt is new.
MOST: Final = 0.9


class Hearsay:
    """Every key has a home, the worker where rendezvous hashing puts it, which is the same for all routers.

    A prompt that nobody is known to hold goes there first, if its queue allows. So a prompt whose kin have gone through
    other routers is probably held there, and the share of it that is may be guessed: as much as is found of prompts
    here, and MORE. Where prompts have nothing in common that is nothing, and the home counts as any other worker.
    """

    def __init__(self) -> None:
        self.uncached = 0.0  # tokens to be computed of a request here, on average
        self._found = 0.0  # share of a prompt that the picked worker is known to hold, on average
        self._homes = Rendezvous()

    def add(self, request: RouteRequest, candidates: tuple[Worker, ...], held: dict[str, int]) -> None:
        """Put the guess into `held`, bytes by worker id, where it is more than what is known."""
        key = key_of(request)
        if not key:
            return
        scores = self._homes.scores(key, candidates)
        home = candidates[scores.index(max(scores))].id
        guess = int(request.size * min(MOST, MORE * self._found))
        if guess > held.get(home, 0):
            held[home] = guess

    def learn(self, request: RouteRequest) -> None:
        """A worker was picked, and `request.matched` is what it is known to hold."""
        self.uncached += (request.uncached_tokens - self.uncached) / REMEMBERED
        if request.size:
            self._found += (request.matched / request.size - self._found) / REMEMBERED

    def forget(self, worker: Worker) -> None:
        self._homes.forget(worker)
