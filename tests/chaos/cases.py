"""All cases, in the order of the table."""

from __future__ import annotations

from tests.chaos import changes, clients, deaths, hangs, launcher, network, overload, soak

ALL = (
    deaths.one_of_four,
    deaths.all_of_them,
    deaths.poison,
    hangs.stopped,
    hangs.long_prefill,
    hangs.late_answers,
    hangs.nothing_moves,
    changes.rolling_restart,
    changes.add_and_remove,
    changes.drained_end,
    launcher.killed_launcher,
    launcher.told_twice,
    launcher.crash_loop,
    launcher.port_taken,
    launcher.stranger_while_loading,
    launcher.gpu_memory,
    network.broken_connections,
    network.killed_sockets,
    network.full_queue,
    network.few_descriptors,
    network.worker_without_descriptors,
    overload.five_times_too_much,
    overload.all_say_503,
    clients.bad_clients,
    soak.mixed_requests,
    soak.many_changes,
)
CASES = {case.name: case for case in ALL}
