"""Isaac Lab's LEAPP export asks a policy for its state: ``python -m tests.hosts.leapp_case``, in a process of its own.

Its module switches TorchScript off. The functions are the host's, in the order of its ``export_rsl_rl_agent``, whose own loop needs a
simulator and leapp; in leapp's place a state is handed on as it is, which is what leapp does where nothing is traced.
"""

import copy

import torch
from isaaclab_rl.entrypoints.backends import export_rsl_rl as host

from tests.hosts.test_first_minibatch import agent_runner

STEPS = 20


def main(agent: str) -> None:
    """Print whether the host knows the policy for recurrent, its states' names and shapes, and how far its actions are from the policy's."""
    policy = agent_runner(agent).alg.get_policy().eval()
    live, env = copy.deepcopy(policy), agent_runner(agent).env
    recurrent, worst, names = host.is_actor_recurrent_policy(policy), 0.0, set()
    obs = env.get_observations()
    with torch.inference_mode():
        for _ in range(STEPS):
            if recurrent:
                held = host.ensure_actor_hidden_state_initialized(
                    policy, batch_size=env.num_envs, device=torch.device("cpu"), dtype=torch.float32
                )
                states = {
                    name: state.clone() for name, state in host.state_dict_from_actor_hidden(held).items()
                }
                registered = tuple(states.values()) if len(states) > 1 else next(iter(states.values()))
                policy.state = None  # what is not given back is lost
                host.set_actor_hidden_state(policy, host.actor_hidden_from_registered(registered, held))
                names.add(", ".join(f"{name} {list(state.shape)}" for name, state in states.items()))
            actions = policy(obs)
            if recurrent:
                after = host.state_dict_from_actor_hidden(host.get_actor_hidden_state(policy))
                names.add(", ".join(f"{name} {list(state.shape)}" for name, state in after.items()))
            worst = max(worst, float((actions - live(obs)).abs().max()))
            obs = env.step(actions)[0]
    print(f"recurrent: {recurrent}; states: {'; '.join(sorted(names))}; apart: {worst}")


if __name__ == "__main__":
    main(__import__("sys").argv[1])
