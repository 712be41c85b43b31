"""What a launch would start, for people and for programs: the plan, and each worker's command. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from launcher.config import LaunchConfig
from launcher.engines import Command, Engine
from launcher.plan import WorkerSpec, cuda_env, thread_env


def describe(
    config: LaunchConfig, engine: Engine, specs: Sequence[WorkerSpec], inherited: Mapping[str, str]
) -> list[dict[str, object]]:
    """Each worker: where it runs, its command, and what its environment has beyond `inherited`."""
    return [_describe(spec, engine, engine.command(spec, config), inherited) for spec in specs]


def _describe(spec: WorkerSpec, engine: Engine, command: Command, inherited: Mapping[str, str]) -> dict[str, object]:
    return {
        "worker": f"w{spec.replica}",
        "engine": engine.name,
        "url": spec.url,
        "devices": list(spec.devices),
        "cpus": list(spec.cpus),
        "env": environment(spec, command, inherited),
        "argv": list(command.argv),
    }


def text(config: LaunchConfig, engine: Engine, specs: Sequence[WorkerSpec], inherited: Mapping[str, str]) -> str:
    """Each worker and where it runs; below it its command, as a shell takes it."""
    lines = []
    for spec in specs:
        command = engine.command(spec, config)
        env = environment(spec, command, inherited)
        lines.append(f"w{spec.replica}  {place(spec)}, {spec.url}")
        assignments = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
        lines.append(f"    {' '.join([*assignments, shlex.join(command.argv)])}")
    return "\n".join(lines)


def environment(spec: WorkerSpec, command: Command, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the engine's environment has beyond what it inherits."""
    return {**cuda_env(spec), **thread_env(spec, inherited), **command.env}


def device(spec: WorkerSpec) -> str:
    """GPU 0,1 of gpu-2; CPU; nothing while its cluster has no place for it."""
    if not spec.placed:
        return ""
    named = f"GPU {','.join(spec.devices)}" if spec.devices else "CPU"
    return f"{named} of {spec.node}" if spec.node else named


def place(spec: WorkerSpec) -> str:
    """GPU 0,1; or CPU, cores 0-3; or that it is not decided yet."""
    if not spec.placed:
        return "where there is room"
    if spec.devices:
        return f"GPU {','.join(spec.devices)}"
    return f"CPU, cores {_ranges(spec.cpus)}" if spec.cpus else "CPU"


def _ranges(numbers: Sequence[int]) -> str:
    """0-3,8: as taskset writes it."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
