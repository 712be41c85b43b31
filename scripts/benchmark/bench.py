"""What every case is given: the settings, the stand-in workers, and the contestants, started when they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark import contestants, workers
from scripts.benchmark.contestants import OURS, Contestant, Running
from scripts.benchmark.load import Streams
from scripts.benchmark.processes import raise_file_limit
from scripts.benchmark.program import Program

FEW = 4  # workers, where their number is not what is measured
MANY = 1024


@dataclass(frozen=True)
class Settings:
    """How long everything takes. `secs`: of one run of the load generator."""

    secs: float = 5.0
    rounds: int = 3
    quick: bool = False

    @property
    def warmup(self) -> float:
        return 0.0 if self.quick else 1.0

    @property
    def short(self) -> float:
        """Of one run where there are many of them."""
        return min(self.secs, 3.0)


# Shows that all works.
QUICK = Settings(secs=1.0, rounds=1, quick=True)


class Bench:
    """Sole owner of the processes that are measured, but for those of the pauses."""

    def __init__(
        self,
        settings: Settings,
        field: Sequence[Contestant],
        program: Program | None,
        folder: Path,
        say: Callable[[str], None],
    ):
        self.settings = settings
        self.field = list(field)
        self.program = program  # ours, if it takes part
        self.folder = folder  # for whatever is written meanwhile
        self.say = say
        self._workers: workers.Workers | None = None
        self._client: Path | None = None
        self._serving: list[Running] = []

    @property
    def worker_port(self) -> int:
        """Of one worker, to be asked directly."""
        return self._fleet().ports[0]

    def _fleet(self) -> workers.Workers:
        """MANY workers, of which the routers are told as many as they need."""
        if self._workers is None:
            raise_file_limit()
            self._workers = workers.Workers(workers.compile("worker", self.folder), MANY)
        return self._workers

    def ours(self) -> Contestant | None:
        return next((contestant for contestant in self.field if contestant.name == OURS), None)

    def serving(self) -> list[Running]:
        """All contestants, each over the same few workers. They stay up, idle while another one is measured."""
        if not self._serving:
            for contestant in list(self.field):
                self._start(contestant)
        return self._serving

    def _start(self, contestant: Contestant) -> None:
        try:
            self._serving.append(contestants.start(contestant, self._fleet().urls(FEW), self.folder))
        except RuntimeError as error:
            self.field.remove(contestant)
            self.say(f"{error}: it takes no further part")

    @contextlib.contextmanager
    def alone(self, contestant: Contestant, count: int = FEW) -> Iterator[Running]:
        """One contestant, fresh, over `count` workers. Raises RuntimeError when it does not serve."""
        self.rest()
        running = contestants.start(contestant, self._fleet().urls(count), self.folder)
        try:
            yield running
        finally:
            running.child.stop()

    @contextlib.contextmanager
    def streams(
        self, port: int, streams: int, events: int, interval: float, *, skip: int = 0, header: str | None = None
    ) -> Iterator[Streams]:
        if self._client is None:
            self._client = workers.compile("client", self.folder)
        client = Streams(self._client, port, streams, events, interval, skip, header)
        try:
            yield client
        finally:
            client.child.stop()

    def rest(self) -> None:
        """Stop all contestants."""
        while self._serving:
            self._serving.pop().child.stop()

    def close(self) -> None:
        self.rest()
        if self._workers is not None:
            self._workers.child.stop()
