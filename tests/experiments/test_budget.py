"""A budget counts its own unit, and invalid ones are refused."""

import pytest

from spiky_rl.config.budget import Budget, parse_budget
from spiky_rl.config.registry import RegistryError


def test_a_budget_is_read_from_a_command_line_and_from_yaml():
    assert parse_budget("env_steps=1e6", "--budget") == Budget("env_steps", 1e6)
    assert parse_budget({"wall": 90}, "budget") == Budget("wall", 90.0)
    assert parse_budget(str(Budget("synops", 2.5e12)), "--budget") == Budget("synops", 2.5e12)


@pytest.mark.parametrize(
    "given, words",
    [
        ("steps=3", ["'steps'", "env_steps, wall, synops", "mean 'env_steps'"]),
        ("wall", ["wall", "above zero", "None"]),
        ("wall=0", ["wall", "'0'"]),
        ("env_steps=1e-3", ["env_steps", "at least 1 step", "'1e-3'"]),
        ("wall=-3", ["wall", "'-3'"]),
        ("wall=nan", ["wall", "'nan'"]),
        ("synops=many", ["synops", "'many'"]),
        ({"wall": 1, "synops": 2}, ["one KIND=AMOUNT"]),
        (7, ["one KIND=AMOUNT", "7"]),
    ],
)
def test_what_is_no_budget_is_refused_by_name(given, words):
    with pytest.raises(RegistryError) as error:
        parse_budget(given, "--budget")
    assert "--budget" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_only_environment_steps_tell_the_number_of_iterations_before_and_the_last_one_counts_whole():
    assert Budget("env_steps", 1000).to_iterations(256) == 4
    assert Budget("env_steps", 1024).to_iterations(256) == 4
    assert Budget("wall", 10).to_iterations(256) is Budget("synops", 10).to_iterations(256) is None


def test_a_training_without_iterations_has_spent_nothing():
    from spiky_rl.learners.common.progress import TrainingProgress

    assert TrainingProgress().total_operations == 0


def test_every_kind_is_spent_by_what_it_is_named_for():
    assert Budget("env_steps", 6000).compute_share(3000, 12.0, 6e6) == 0.5
    assert Budget("wall", 10).compute_share(3000, 12.0, 6e6) == 1.2
    assert Budget("synops", 6e6).compute_share(3000, 12.0, 6e6) == 1.0
