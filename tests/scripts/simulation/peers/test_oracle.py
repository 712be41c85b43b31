"""The oracles' sums, worked out by hand."""

from __future__ import annotations

from tests.scripts.simulation.peers.stage import Engine, Stage, job


def stage(name: str, *engines: Engine) -> Stage:
    made = Stage(name, *[0] * len(engines))
    made.engines = {worker.id: engine for worker, engine in zip(made.workers, engines, strict=True)}
    return made


def costs_are_equal(name: str, *engines: Engine) -> bool:
    """Whether any of them is picked for a prompt of blocks 1 to 4, 40 tokens."""
    here = stage(name, *engines)
    return {here.answer(job(1, 2, 3, 4)) for _ in range(30)} == {worker.id for worker in here.workers}


def test_the_sum_of_the_oracle():
    # mean(p) = 1: 20 + 20 * (1 + 2 + 2 + 1) + 10 = 150; 40 * (1 + 0 + 2 + 0) + 30 = 150
    one = Engine(holds=(1, 2), queued=20, prefilling=2, decoding=10, context=100)
    assert costs_are_equal("oracle", one, Engine(queued=30))
    assert not costs_are_equal("oracle", one, Engine(queued=31))


def test_the_sum_of_the_simple_oracle():
    # 20 + 20 * (1 + 2 + 1) + 10 = 110; 40 + 70
    one = Engine(holds=(1, 2), queued=20, prefilling=1, decoding=10, context=100)
    assert costs_are_equal("oracle_simple", one, Engine(queued=70))
    assert not costs_are_equal("oracle_simple", one, Engine(queued=71))


def test_a_slow_engine_costs_more():
    # 40 / 0.5 = 80; 40 + 40
    assert costs_are_equal("oracle_simple", Engine(speed=0.5), Engine(queued=40))


def test_the_router_is_told_what_the_engine_holds():
    here = stage("oracle", Engine(holds=(1, 2)), Engine(queued=1000))
    assert here.send(job(1, 2, 3)) == "w0"
    assert here.request.matched == 80
