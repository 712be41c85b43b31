"""What is sent: one request, and a workload of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

BYTES_PER_TOKEN = 4.0  # of the text that stands for a prompt; the router has to find it out


@dataclass(eq=False)
class Job:
    """One request. Prompts are told apart by block ids: equal ids at equal places are equal text.

    `blocks` covers the prompt, its last block may be part of one. `held` are the full blocks of prompt and answer
    together: what the engine has cached once it has answered. `then` is the session's next request, sent `think`
    seconds after this one's answer; its own `arrival` is not used.
    """

    arrival: float  # s
    blocks: tuple[int, ...]
    prompt: int  # tokens
    output: int  # tokens, at least 1
    held: tuple[int, ...]
    think: float = 0.0  # s
    then: Job | None = None


@dataclass
class Workload:
    """Requests in order of arrival. `jobs` holds the first of each session only; the others hang at their `then`."""

    name: str
    block: int  # tokens of a block
    jobs: list[Job] = field(default_factory=list)
    bytes_per_token: float = BYTES_PER_TOKEN

    def all(self) -> list[Job]:
        """Every request, each session's in their order."""
        found = []
        for job in self.jobs:
            step: Job | None = job
            while step is not None:
                found.append(step)
                step = step.then
        return found
