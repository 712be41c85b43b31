"""scripts/bench: what its table says of figures, and that its tools still fit the router and each other."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmark import goals, pauses, program, report, workers
from scripts.benchmark.cases import CASES
from scripts.benchmark.cases.soak import least_squares

OURS = "llm-launch"
needs_tools = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("taskset")), reason="cc and taskset are not installed"
)


def run(per_core=30_000.0, cpu_us=33.0):
    return {"per_core": per_core, "cpu_us": cpu_us, "rate": per_core * 0.9, "busy": 0.9}


def throughput(small):
    """Rows about small requests, by what they say."""
    quiet = {OURS: [run()]}
    figures = {"small": small, "chat": quiet, "long": quiet, "stream": quiet}
    return {row.what: row for row in goals.rows({"throughput": figures}) if "small" in row.what}


def test_a_rate_is_judged_by_the_median_of_each_rounds_ratio():
    ours, rival = [run(30_000.0), run(10_000.0), run(31_000.0)], [run(9_000.0), run(3_000.0), run(20_000.0)]
    row = throughput({OURS: ours, "sglang-router": rival})["requests/s per core, small, against sglang-router"]
    assert row.met
    assert row.peers == ("sglang-router 9,000 (8,100/s at busy 0.90): 3.33x",)


def test_the_slowest_ratio_decides_among_several_peers():
    small = {OURS: [run()], "vllm-router": [run(20_000.0)], "smg": [run(3_000.0)]}
    row = throughput(small)["requests/s per core, small, against the others"]
    assert row.met is False
    assert len(row.peers) == 2


def test_without_peers_no_goal_against_them_is_met():
    assert {row.met for row in throughput({OURS: [run()]}).values()} == {None}


def test_nginx_is_compared_by_cpu_time():
    row = throughput({OURS: [run(cpu_us=50.0)], "nginx": [run(cpu_us=19.0)]})["CPU of a small request, against nginx"]
    assert row.ours == "50.0 us: 2.63x"
    assert row.met is False


@pytest.mark.parametrize(("peer", "met"), [(131, True), (130, False)])
def test_latency_must_be_below_the_limit_and_below_every_peers(peer, met):
    figures = {
        "direct": [{"p50_us": 30, "p99_us": 60}],
        OURS: [{"p50_us": 130, "p99_us": 300}],
        "smg": [{"p50_us": peer, "p99_us": 900}],
        "nginx": [{"p50_us": 60, "p99_us": 70}],  # not a peer: it reads no content
    }
    p50, p99 = goals.rows({"latency": figures})
    assert (p50.ours, p50.met) == ("0.100 ms", met)
    assert p99.met


def test_streams_that_are_lost_fail_the_goal_whatever_the_figures():
    good = {"share": 0.2, "p50": 50_000, "p99": 100_000, "refused": 0, "broken": 0}
    figures = {"direct": [{**good, "share": 0.0}], OURS: [{**good, "broken": 1}], "smg": [{**good, "share": 0.5}]}
    assert [row.met for row in goals.rows({"paced": figures})] == [False, False]


def test_bytes_per_second_are_taken_of_each_step_in_size():
    costs = {"65536": 100.0, "262144": 250.0, "1048576": 1250.0}  # us
    runs = {size: [run(cpu_us=cost)] for size, cost in costs.items()}
    repeated, fresh = goals.rows({"prompts": {OURS: {"repeated": runs, "fresh": runs}}})
    assert repeated.ours == "1.31, 0.79 GB/s"
    assert repeated.met is fresh.met is False


def test_more_workers_may_cost_a_third_more_and_a_choice_among_64_thirty_microseconds():
    def fleets(cost, choice):
        costs = {"4": 10.0, "64": 11.0, "256": cost}
        return {count: [{**run(cpu_us=cpu), "choice_us": choice}] for count, cpu in costs.items()}

    rows = goals.rows({"workers": {"small": fleets(13.0, 1.0), "fresh-80": fleets(13.1, 31.0)}})
    assert [(row.ours, row.met) for row in rows] == [
        ("10.0 us to 13.0 us: 1.30x", True),
        ("10.0 us to 13.1 us: 1.31x", False),
        ("31.0 us", False),
    ]


def test_a_soak_too_short_to_fill_the_index_is_not_judged():
    soak = {OURS: {"slope": 100.0, "requests": 20_000, "failed": 0, "refused": 0}}
    (row,) = goals.rows({"soak": soak})
    assert (row.ours, row.met) == ("+10.00 MB", None)
    soak[OURS]["requests"] = 1_000_000
    assert goals.rows({"soak": soak})[0].met is False


def test_the_slope_is_that_of_the_line_with_the_least_squares():
    assert least_squares([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert least_squares([(0, 0), (1, 3), (2, 0)]) == pytest.approx(0)


def test_noise_is_said_when_it_was_much():
    figures = {"throughput": {"small": {OURS: [{"others": 0.02, "stolen": 0.0}, {"others": 0.4, "stolen": 0.01}]}}}
    assert list(report.noise(figures)) == [
        "noise: other processes took up to 40% of the router's CPU during a measurement"
    ]


def test_every_case_has_its_rows_and_its_panel():
    plot = pytest.importorskip("scripts.benchmark.plot", exc_type=ImportError)
    assert {case for case, _ in goals.ROWS} == {case for case, _ in plot.PANELS} == set(CASES)


@needs_tools
def test_the_client_counts_streams_that_come_whole_and_those_that_do_not(tmp_path: Path):
    fleet = workers.Workers(workers.compile("worker", tmp_path), 2)
    client = workers.compile("client", tmp_path)

    def ask(port: int, events: str) -> str:
        told = subprocess.run([client, str(port), "20", events, "1", "0"], capture_output=True, text=True, check=True)
        return told.stdout

    try:
        assert '"opened":20,"refused":0,"broken":0,"events":200' in ask(fleet.ports[1], "10")
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            short = loop.run_until_complete(loop.create_server(lambda: Short(), "127.0.0.1", 0))
            port = short.sockets[0].getsockname()[1]
            told = loop.run_until_complete(loop.run_in_executor(None, ask, port, "10"))
            short.close()
        assert '"opened":20,"refused":0,"broken":20' in told
    finally:
        fleet.child.stop()
    assert '"opened":0,"refused":20' in ask(fleet.ports[0], "10")


class Short(asyncio.Protocol):
    """Answers one event of however many were asked for, and ends cleanly."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        self.transport.write(head + b'f\r\ndata: {"t":1}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n')


def test_the_program_that_is_measured_says_whether_it_is_compiled(tmp_path: Path):
    assert program.Program(sys.executable).version(tmp_path).endswith("compiled")
    with pytest.raises(RuntimeError, match="no_such_thing"):
        program._run([sys.executable, "-c", "import no_such_thing"], tmp_path, {})


async def test_the_pauses_are_those_of_requests_that_the_router_serves():
    watch = pauses.Stopwatch()
    world = pauses.World(watch)
    prompts = pauses.Prompts(seed=1)
    for size in (80, 16 * 1024, pauses.MIB):
        await world.ask(f"{size} bytes", prompts.fresh(size))
    world.tick()
    pauses.scrape(world)
    watch.close()
    assert sum(world.metrics.requests.values()) == 3
    assert {code for _, code in world.metrics.requests} == {200}
    told = watch.report()
    turns = {"80 bytes", "answer to 80 bytes", f"{pauses.MIB} bytes", "tick", "sweep", "scrape of the metrics"}
    assert turns <= set(told["by_call"])
    assert world.policy.index.size > pauses.MIB  # type: ignore[attr-defined]
