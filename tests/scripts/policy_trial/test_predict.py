"""The simulator's word beside that of the processes."""

from __future__ import annotations

from scripts.policy_trial.cell import LLAMA_CPP, Cell
from scripts.policy_trial.predict import PEERS, known_as, predicted
from scripts.simulation.contestants import CONTESTANTS
from tests.scripts.policy_trial.runs import results


def test_a_prediction_is_of_the_same_cell_and_seed():
    (told,) = predicted(results("round_robin", 1.0))
    assert (told.run.cell.workload, told.run.seed, told.run.policy) == ("no_reuse", 1, "round_robin")
    assert told.figures["requests"]


def test_nobody_is_predicted_whom_the_simulator_does_not_know():
    assert predicted(results("vllm-router:cache_aware", 1.0)) == []
    assert predicted(results("least_work", 1.0, cell=Cell("turns", 2, 1.0, LLAMA_CPP))) == []
    assert all(name in CONTESTANTS for name in PEERS.values())
    assert known_as("sglang-router:cache_aware") == "sglang_0_3_2"
