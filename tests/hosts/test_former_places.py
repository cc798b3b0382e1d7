"""Saved configurations name classes where they once were."""

import pytest
from rsl_rl.utils import resolve_callable

FORMER = {
    "spiky_rl.hosts.rsl_rl:SpikingModel": "spiky_rl.learners.rsl_rl:SpikingModel",
    "spiky_rl.hosts.rsl_rl.model:SpikingModel": "spiky_rl.learners.rsl_rl:SpikingModel",
    "spiky_rl.hosts.rsl_rl:BurnInMLPModel": "spiky_rl.learners.rsl_rl:BurnInMLPModel",
    "spiky_rl.hosts.rsl_rl:SpikingPPO": "spiky_rl.learners.rsl_rl:SpikingPPO",
    "spiky_rl.hosts.rsl_rl:DistillingPPO": "spiky_rl.learners.rsl_rl:DistillingPPO",
}


@pytest.mark.parametrize("former", FORMER)
def test_the_former_name_of_a_class_still_resolves_to_it(former):
    assert resolve_callable(former) is resolve_callable(FORMER[former])


def test_the_former_names_of_skrl_models_still_resolve():
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    from spiky_rl.hosts import skrl as former
    from spiky_rl.learners import skrl as present

    for name in ("SpikingPolicy", "SpikingValue", "SpikingPPO", "SpikingRecurrentPPO"):
        assert getattr(former, name) is getattr(present, name)
