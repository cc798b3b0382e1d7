"""Policies of whole agents as a training leaves them."""

from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.test_first_minibatch import agent_runner


def trained(agent, *overrides, seed=0):
    """Return an ``agent``'s policy on the point mass, with ``overrides``, as if trained and ready to act; ``seed``: of what changes."""
    return perturb_learned_values(agent_runner(agent, *overrides).alg.get_policy().eval(), seed)
