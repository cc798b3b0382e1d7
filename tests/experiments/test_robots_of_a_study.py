"""A study over results of different robots says so: their scores are not comparable."""

import json

from spiky_rl.experiments.analysis import analyse
from spiky_rl.experiments.sentences import unequal
from tests.experiments.results import CARTPOLE, dump, write_study

OLD, NEW = "local (derived from Newton 1.6.1)", "local (look-alikes 3, derived from Newton 1.6.1)"


def robots_of(tmp_path, *names):
    """What a study says of its robots whose cells ran with these in turn."""
    study = write_study(tmp_path / "study", agents=("mlp_ppo", "lif_ppo"), tasks=(CARTPOLE,), seeds=range(2))
    for i, path in enumerate(sorted((study / "cells").glob("*/result.json"))):
        dump(path, json.loads(path.read_text()) | {"assets": names[i % len(names)]})
    return dict(unequal(analyse(study)))["Robots"]


def test_a_study_of_older_and_newer_robots_names_both(tmp_path):
    assert robots_of(tmp_path, OLD, NEW) == f"Cells ran with different robots: {OLD}; {NEW}."


def test_a_study_of_the_same_robots_says_nothing(tmp_path):
    assert not robots_of(tmp_path, NEW)
