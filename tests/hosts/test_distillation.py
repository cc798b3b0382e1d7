"""A teacher's student: it learns what the teacher does, then the critic catches up, then PPO goes on; and a run goes on anywhere."""

from types import SimpleNamespace

import pytest
import torch

from spiky_rl.cli.train import train
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import SpecError, resolve_agent
from spiky_rl.learners import get_learner
from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint
from spiky_rl.learners.common.teacher import Teacher, load_teacher_from_student, read_teacher
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.learners.rsl_rl.actor import build_teacher
from spiky_rl.run import teacher as teachers
from spiky_rl.run.run_plan import TrainOptions
from tests.cli.refusals import refused
from tests.hosts.point_env import PointEnv, config

TASK, ENVS, ITERATIONS = "Isaac-Point", 16, 12
SHORT = f"agent.algorithm.distillation_cfg={{iterations: {ITERATIONS}, value_iterations: 2, num_learning_epochs: 5}}"
STUDENTS = {
    "reset in every step": (),
    "stateful": ("agent.network.stateful=true", "agent.network.steps=2"),
    "recurrent": (
        "agent.network.stateful=true",
        "agent.network.steps=2",
        "agent.network.recurrent=recurrent",
        "agent.algorithm.distillation_cfg.gradient_length=4",
    ),
}

RSL_RL = get_learner("rsl_rl")


def merged(agent, *overrides):
    host = config()
    host["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}
    host.pop("save_interval")
    return resolve_agent(agent, TASK, host, overrides)


def runner_of(agent, *overrides, folder=None, seed=0):
    torch.manual_seed(seed)
    spec = merged(agent, *overrides)
    identity = {"task": TASK, "agent": agent, "spec": spec.to_dict()}
    settings = make_runner_cfg(spec) | {"save_interval": 100}
    return RslRlRunner(
        PointEnv(ENVS), settings, None if folder is None else str(folder), "cpu", identity=identity
    )


def a_teacher(agent="mlp_ppo", *overrides):
    """Freshly drawn, with an action noise of its own."""
    run = runner_of(agent, *overrides, seed=5)
    with torch.no_grad():
        run.alg.actor.distribution.std_param.fill_(0.4)
    return Teacher("teacher.pt", agent, merged(agent, *overrides).to_dict(), run.alg.actor.state_dict())


def student_of(teacher, *overrides, folder=None):
    run = runner_of("lif_distilled", "agent.network.layers=[32]", SHORT, *overrides, folder=folder)
    run.set_teacher(teacher)
    return run


def load(run, path):
    """A run that goes on from a student's checkpoint, which holds its teacher."""
    run.set_teacher(load_teacher_from_student(read_checkpoint(str(path)), path))
    run.load(str(path))
    return run


def losses_of(run, iterations):
    found = []
    run.on_iteration = lambda iteration: found.append(iteration.losses)
    run.learn(iterations)
    return found


@pytest.mark.parametrize(
    "teacher, student",
    [
        ("gru_ppo", "stateful"),
        *(pytest.param("mlp_ppo", student, marks=pytest.mark.slow) for student in STUDENTS),
        pytest.param("lif_ppo", "reset in every step", marks=pytest.mark.slow),
    ],
)
def test_a_student_comes_near_to_its_teacher(teacher, student):
    run = student_of(a_teacher(teacher), *STUDENTS[student])
    assert torch.equal(run.alg.actor.distribution.std_param, torch.full((2,), 0.4)), "its teacher's noise"
    behaviour = [losses["behavior"] for losses in losses_of(run, ITERATIONS)]
    assert behaviour[-1] < 0.35 * behaviour[0]


def test_errors_reach_back_as_far_as_gradient_length_within_an_episode():
    """A slow leak, so that the first observation moves the fourth action."""
    run = student_of(a_teacher(), *STUDENTS["stateful"], "agent.network.neuron.tau=50.0")
    student, seen = run.alg.distillation.student, []
    ended = torch.arange(ENVS) % 2
    for step in range(4):
        obs = run.env.get_observations()
        obs["policy"].requires_grad_()
        seen.append(obs["policy"])
        action = student(obs)
        dones = ended * (step == 1)
        student.reset(dones)
        student.detach_hidden_state(dones)
    first, third = torch.autograd.grad(action.sum(), [seen[0], seen[2]])
    assert first[ended == 0].any() and not first[ended == 1].any(), "not through the end of an episode"
    assert third[ended == 1].any()


@pytest.mark.parametrize(
    "teacher",
    ["gru_ppo", pytest.param("lif_stateful_ppo", marks=pytest.mark.slow), "lif_reservoir_ppo"],
)
def test_a_teacher_remembers_from_one_rollout_to_the_next(teacher):
    overrides = ["agent.network.control=gain", "agent.network.size=20"] if "reservoir" in teacher else []
    held = a_teacher(teacher, *overrides)
    run, kept = student_of(held), []
    run.on_iteration = lambda _: kept.append(
        [getattr(run.alg.storage, name).clone() for name in ("observations", "dones", "privileged_actions")]
    )
    run.learn(2)
    again = build_teacher(held, run.env.get_observations(), 2, "cpu")
    with torch.inference_mode():
        for observations, dones, actions in kept:
            for x, done, action in zip(observations, dones, actions, strict=True):
                torch.testing.assert_close(again(x), action)
                again.reset(done.view(-1))


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}


def changed(before, model):
    return any(not torch.equal(value, before[name]) for name, value in weights_of(model).items())


def phases_of(run, *parts):
    """After each part of a training: whether it has changed actor and critic."""
    for part in parts:
        actor, critic = weights_of(run.alg.actor), weights_of(run.alg.critic)
        run.learn(part)
        run.current_learning_iteration += 1
        yield changed(actor, run.alg.actor), changed(critic, run.alg.critic)


@pytest.mark.parametrize(
    "overrides", [(), ("agent.network.learning=rstdp",)], ids=["gradients", "a local rule"]
)
@pytest.mark.slow
def test_first_the_student_then_the_critic_then_both(overrides):
    run = student_of(a_teacher(), *overrides)
    teacher = weights_of(run.alg.distillation.teacher)
    learned = [parameter.requires_grad for parameter in run.alg.actor.parameters()]
    assert list(phases_of(run, ITERATIONS, 2, 1)) == [(True, False), (False, True), (True, True)]
    assert not changed(teacher, run.alg.distillation.teacher)
    assert [parameter.requires_grad for parameter in run.alg.actor.parameters()] == learned


@pytest.mark.parametrize("done", [4, ITERATIONS + 3], ids=["while it distils", "afterwards"])
@pytest.mark.slow
def test_a_run_goes_on_in_the_part_that_it_was_in_without_its_teachers(done, tmp_path):
    run = student_of(a_teacher(), "agent.network.stateful=true", folder=tmp_path)
    run.learn(done)
    path = tmp_path / f"model_{done - 1}.pt"
    overrides = ("agent.network.layers=[32]", SHORT, "agent.network.stateful=true")
    again = load(runner_of("lif_distilled", *overrides, seed=3), path)
    assert again.alg.updates == done and again.current_learning_iteration == done
    assert not changed(weights_of(run.alg.actor), again.alg.actor)
    assert not changed(weights_of(run.alg.distillation.teacher), again.alg.distillation.teacher)
    assert (
        again.alg.distillation.optimizer.state_dict()["state"].keys()
        == run.alg.distillation.optimizer.state_dict()["state"].keys()
    )
    (losses,) = losses_of(again, 1)
    assert ("behavior" in losses) == (done < ITERATIONS)


def test_a_checkpoint_is_an_agents_as_any_other(tmp_path):
    student_of(a_teacher(), folder=tmp_path).learn(1)
    played = runner_of("lif_distilled", "agent.network.layers=[32]", SHORT)
    played.load(str(tmp_path / "model_0.pt"), {"actor": True, "critic": True})
    assert played.get_inference_policy("cpu")(played.env.get_observations()).shape == (ENVS, 2)
    assert played.alg.updates == 0


def test_a_teacher_that_is_none_is_refused_by_name(tmp_path):
    for override, said in (
        ("agent.actor.hidden_dims=[7]", "the teacher does not fit"),
        ("agent.obs_groups.actor=[walls]", "observation groups walls, which the task does not have"),
    ):
        tree = merged("mlp_ppo", override).to_dict()
        with pytest.raises(CheckpointError, match=said):
            student_of(Teacher("teacher.pt", "mlp_ppo", tree, a_teacher().weights))
    with pytest.raises(UserError, match="distribution_cfg.std_type: log given; allowed: scalar"):
        student_of(a_teacher(), "agent.actor.distribution_cfg.std_type=log")
    run = runner_of("mlp_ppo", folder=tmp_path)
    run.learn(1)
    assert read_teacher(tmp_path / "model_0.pt", TASK, RSL_RL).agent == "mlp_ppo"
    with pytest.raises(CheckpointError, match="teacher of task 'Isaac-Point', not 'Isaac-Ant'"):
        read_teacher(tmp_path / "model_0.pt", "Isaac-Ant", RSL_RL)
    with pytest.raises(CheckpointError, match="holds no teacher"):
        load_teacher_from_student(read_checkpoint(str(tmp_path / "model_0.pt")), tmp_path / "model_0.pt")
    run.identity = {}
    run.save(str(tmp_path / "foreign.pt"))
    with pytest.raises(CheckpointError, match="not written by spiky train"):
        read_teacher(tmp_path / "foreign.pt", TASK, RSL_RL)
    torch.save({"policy": {}, "value": {}, "iter": 1}, tmp_path / "skrl.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of rsl_rl"):
        read_teacher(tmp_path / "skrl.pt", TASK, RSL_RL)


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["agent.network={name: reservoir}"], "agent.network: reservoir trains only its readout"),
        (
            [
                "agent.algorithm.rnd_cfg={num_outputs: 1, predictor_hidden_dims: [4], target_hidden_dims: [4], weight: 1.0}"
            ],
            "agent.algorithm.rnd_cfg: not available with distillation_cfg",
        ),
        (
            ["agent.algorithm.class_name=rsl_rl.algorithms:PPO"],
            "derived from spiky_rl.learners.rsl_rl:DistillingPPO",
        ),
        (
            ["agent.algorithm.distillation_cfg={num_learning_epochs: 2, gradient_length: 49}"],
            "gradient_length: 49 given, .* the student would never learn; allowed: at most 48",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused(overrides, said):
    with pytest.raises(SpecError, match=said):
        make_runner_cfg(merged("lif_distilled", *overrides))


@pytest.mark.parametrize(
    "values",
    ["num_learning_epochs: 2, gradient_length: 48", "method: conversion, gradient_length: 1000"],
)
def test_the_longest_gradient_and_one_without_an_effect_are_allowed(values):
    make_runner_cfg(merged("lif_distilled", f"agent.algorithm.distillation_cfg={{{values}}}"))


@pytest.mark.parametrize(
    "is_resumed",
    [
        pytest.param(False, id="--teacher"),
        pytest.param(True, id="a student that goes on", marks=pytest.mark.slow),
    ],
)
def test_code_that_a_teachers_checkpoint_names_is_only_executed_if_the_user_names_it_too(
    is_resumed, tmp_path
):
    own = tmp_path / "own.py"
    own.write_text("from pathlib import Path\nPath(__file__).with_suffix('.executed').touch()\n")
    network = {"name": "feedforward", "layers": [8], "neuron": f"{own}:Own"}
    spec = {**merged("lif_ppo").to_dict(), "network": network}
    run = student_of(a_teacher(), folder=tmp_path / "run")
    run.identity["spec"] = spec
    run.alg.teacher = Teacher("somewhere.pt", "lif_ppo", spec, a_teacher().weights)
    run.learn(1)
    checkpoint, student = tmp_path / "run" / "model_0.pt", merged("lif_distilled", SHORT)
    plan = SimpleNamespace(task=TASK, agent="lif_distilled", spec=student, experiment="point")
    plan.request = SimpleNamespace(log_root=tmp_path)
    plan.library, plan.learner = RSL_RL.name, RSL_RL

    def find(*code):
        named = None if is_resumed else str(checkpoint)
        return teachers.find_teacher(
            plan, TrainOptions(teacher=named, teacher_code=code), checkpoint if is_resumed else None
        )

    with pytest.raises(UserError) as said:
        find()
    assert str(said.value).startswith(f"{checkpoint}: ") and f"{own}:Own" in str(said.value)
    assert "--teacher_code" in str(said.value)
    found = find(f"{own}:Own")
    assert found.spec["network"]["neuron"] == f"{own}:Own"
    assert not own.with_suffix(".executed").exists(), "it is found without being executed"
    plan.spec = SimpleNamespace(runner=student.runner, to_dict=lambda: {"network": network})
    assert find().spec == found.spec, "the student's command line names it"


CARTPOLE = "--task cartpole --device cpu --assets local --log_root".split()


@pytest.mark.parametrize(
    "line, said",
    [
        (
            "--agent lif_distilled",
            "--agent lif_distilled: needs a teacher; pass its run folder with --teacher RUN",
        ),
        (
            "--agent lif_ppo --teacher somewhere",
            "--agent lif_ppo learns from no teacher; allowed: lif_distilled",
        ),
        (
            "--agent lif_distilled --teacher nowhere",
            "--teacher nowhere: not found; allowed: a checkpoint file, a run folder with checkpoints, or pretrained:AGENT",
        ),
        ("--agent lif_distilled --rl_library skrl", "distillation_cfg"),
    ],
)
def test_the_command_refuses_before_it_starts_a_simulator(line, said, tmp_path, capsys):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    assert said in refused(train, [*CARTPOLE, tmp_path, *line.split()], capsys)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_a_teacher_of_another_task_or_another_history(tmp_path, capsys):
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    runs = {"other": (TASK, ()), "longer": ("Isaac-Cartpole", ("agent.history=4",))}
    for name, (task, overrides) in runs.items():
        run = runner_of("mlp_ppo", *overrides, folder=tmp_path / name)
        run.identity = {**run.identity, "task": task}
        run.learn(1)
    line = [*CARTPOLE, tmp_path / "logs", "--agent", "lif_distilled", "--teacher"]
    assert "teacher of task 'Isaac-Point', not 'Isaac-Cartpole'" in refused(
        train, [*line, tmp_path / "other"], capsys
    )
    said = refused(train, [*line, tmp_path / "longer"], capsys)
    assert "the teacher observes agent.history=4, the student 1; pass agent.history=4" in said
    assert issubclass(CheckpointError, UserError) and not (tmp_path / "logs").exists()


def test_a_conversion_refuses_a_spiking_teacher_before_a_simulator_starts(tmp_path, capsys):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    line = ["--task", "CartPole-v1", "--agent", "sigma_delta_converted", "--teacher", "pretrained:lif_ppo"]
    said = refused(train, [*line, "--device", "cpu", "--log_root", tmp_path], capsys)
    assert "the teacher lif_ppo spikes" in said and "allowed" in said
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            (),
            "agent.network.neuron.activation: elu given, the teacher has tanh; pass agent.network.neuron.activation=tanh",
        ),
        (
            ("agent.network.neuron.activation=tanh", "agent.network.layers=[32]"),
            "agent.network.layers: [32] given, the teacher has [64, 64]; pass agent.network.layers=[64,64]",
        ),
    ],
)
def test_a_conversion_refuses_a_student_of_another_form_before_a_simulator_starts(
    overrides, said, tmp_path, capsys
):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    line = [
        "--task",
        "Pendulum-v1",
        "--agent",
        "sigma_delta_converted",
        "--teacher",
        "pretrained:mlp_matched_ppo",
    ]
    assert said in refused(train, [*line, *overrides, "--device", "cpu", "--log_root", tmp_path], capsys)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("name", "is_warned"), [("stateful", True), ("recurrent", False), ("reset in every step", False)]
)
def test_a_student_whose_gradient_does_not_pass_its_state_is_warned_of(name, is_warned, caplog):
    runner_of("lif_distilled", *STUDENTS[name])
    assert ("gradient_length above 1" in caplog.text) == is_warned
