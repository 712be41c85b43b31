"""All cases, in the order of the table."""

from __future__ import annotations

from tests.chaos import changes, clients, deaths

ALL = (
    deaths.one_of_four,
    deaths.all_of_them,
    deaths.poison,
    changes.rolling_restart,
    changes.add_and_remove,
    changes.drained_end,
    clients.bad_clients,
)
CASES = {case.name: case for case in ALL}
