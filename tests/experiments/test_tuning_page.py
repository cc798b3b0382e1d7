"""A tuning's page tells how much of it was chance: trials that were drawn at random, and how many trials and seeds there were."""

import pytest

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: the extra 'experiments'")

from spiky_rl.experiments.analysis.tuning_outcome import collect_outcomes
from spiky_rl.experiments.report.tuning_page import write_tuning_page
from spiky_rl.experiments.run import tuning
from tests.experiments import tunings


@pytest.mark.slow
def test_the_page_says_how_many_trials_were_drawn_at_random(monkeypatch, tmp_path):
    drawn, draw = [], optuna.samplers.RandomSampler.sample_independent

    def count(sampler, study, trial, name, distribution):
        drawn.append((study.study_name, trial.number))
        return draw(sampler, study, trial, name, distribution)

    monkeypatch.setattr(optuna.samplers.RandomSampler, "sample_independent", count)
    made = tunings.run(tmp_path, tunings.asked(trials=14), parallel=3)
    found = collect_outcomes(made)
    names = [study.study_name for study in made.studies.values()]
    assert [o.random_count for o in found] == [len({n for name, n in drawn if name == own}) for own in names]
    assert all(
        tuning.STARTUP - 1 <= o.random_count < 13 for o in found
    ), "and the first is the agent as it is"
    said = write_tuning_page(made, {})[1].read_text()
    assert "were drawn at random: Optuna's estimator chooses values once 10 trials have ended" in said
    assert "The tuning has 14 trials of 1 seed, fewer than 30 of 2" in said
