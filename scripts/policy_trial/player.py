"""Plays a workload in real time through a router, and keeps what became of each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from scripts.policy_trial import prompts
from scripts.policy_trial.answer import EVENT, Answer, AnswerError, read
from scripts.policy_trial.stage import Stage
from scripts.simulation.job import Job
from scripts.simulation.world import Outcome

PATIENCE = 120.0  # s, for a whole answer; it is an error then


@dataclass(frozen=True)
class Target:
    """Where to send, with which headers, and the name under which the engines serve their model.

    Of several URLs each first block of text has its own, by turns.
    """

    urls: Sequence[str]
    headers: Mapping[str, str]
    model: str


@dataclass
class Played:
    """Times of outcomes in engine seconds from the beginning; `late`: real seconds after each request was due."""

    outcomes: list[Outcome] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def play(stage: Stage, target: Target) -> Played:
    """All requests of the stage, each session's next one a think time after its answer."""
    _prepare(stage)
    # llama.cpp may close a connection just when the next request is on its way.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=target.headers) as http:
        player = _Player(stage, target, http)
        await player.play()
        return player.played


def _prepare(stage: Stage) -> None:
    """Make all text before the clock runs."""
    for _, job in stage.offer.order:
        prompts.prompt(stage.offer.workload, job)


class _Player:
    def __init__(self, stage: Stage, target: Target, http: aiohttp.ClientSession):
        self.stage = stage
        self.target = target
        self.http = http
        self.played = Played()
        self._places: dict[int, str] = {}  # by the first block
        self._origin = time.monotonic()  # the loop's own time is in whole milliseconds

    def _now(self) -> float:
        """Engine seconds from the beginning."""
        return (time.monotonic() - self._origin) / self.stage.time_scale

    async def play(self) -> None:
        sessions = []
        for job in self.stage.offer.workload.jobs:
            await self._until(job.arrival)
            sessions.append(asyncio.create_task(self._session(job, job.arrival)))
        await asyncio.gather(*sessions)

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self._now()) * self.stage.time_scale)

    async def _session(self, first: Job, due: float) -> None:
        job: Job | None = first
        said = ""
        while job is not None:
            prompt = prompts.prompt(self.stage.offer.workload, job, said)
            answer = await self._ask(job, prompt, due)
            said = prompt + answer.text if answer and prompts.goes_on(job) else ""
            due = self._now() + job.think
            job = job.then
            if job is not None:
                await self._until(due)

    async def _ask(self, job: Job, prompt: str, due: float) -> Answer | None:
        """The answer; None when it failed."""
        outcome = Outcome(job, due, self._now(), "w0")
        self.played.outcomes.append(outcome)
        self.played.late.append((outcome.sent - due) * self.stage.time_scale)
        try:
            answer = await self._exchange(self._url(job), outcome, self._body(job, prompt))
        except (AnswerError, aiohttp.ClientError, asyncio.TimeoutError) as error:
            outcome.failed = True
            self.played.errors.append(f"{type(error).__name__}: {error}")
            return None
        outcome.cached = round(job.prompt * answer.cached / answer.tokens)  # an engine may count other tokens
        return answer

    async def _exchange(self, url: str, outcome: Outcome, body: bytes) -> Answer:
        chunks: list[bytes] = []
        stream = self.stage.scene.streams
        async with self.http.post(url, data=body) as response:
            async for chunk in response.content.iter_any():
                if outcome.first is None and response.status == 200 and (EVENT in chunk or not stream):
                    outcome.first = self._now()
                chunks.append(chunk)
        outcome.end = self._now()
        whole = b"".join(chunks)
        if response.status != 200:
            raise AnswerError(f"status {response.status}: {whole[:200]!r}")
        return read(whole, stream)

    def _url(self, job: Job) -> str:
        urls = self.target.urls
        return self._places.setdefault(job.blocks[0], urls[len(self._places) % len(urls)])

    def _body(self, job: Job, prompt: str) -> bytes:
        asked = {"model": self.target.model, "prompt": prompt, "max_tokens": job.output, "ignore_eos": True}
        if self.stage.scene.streams:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode({**asked, "temperature": 0})
