"""Policies of whole agents as a training leaves them."""

from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.test_first_minibatch import agent_runner


def trained(agent, *overrides, seed=0):
    """Return an ``agent``'s policy on the point mass, with ``overrides``, as if trained and ready to act; ``seed``: of what changes."""
    return perturb_learned_values(agent_runner(agent, *overrides).alg.get_policy().eval(), seed)


def trained_on_torch(agent, *overrides):
    """Return a policy as `trained` on the torch backend, with which files other than C are compared."""
    policy = trained(agent, *overrides)
    if hasattr(policy, "network"):
        policy.network.set_backend("torch")
    return policy
