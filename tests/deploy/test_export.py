"""An export is whole: files are proved beside their place, or the older ones stay; what they are made from does not show in them."""

import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.deploy import _export, _targets
from spiky_rl.deploy._verification import VerificationResult, get_flat_state
from spiky_rl.deploy.c import C
from spiky_rl.deploy.nir import Nir
from spiky_rl.deploy.onnx import Onnx
from spiky_rl.deploy.torchscript import TorchScript
from tests.deploy.test_c import live, walk
from tests.deploy.test_c_int8 import Restarted
from tests.deploy.trained import trained_on_torch
from tests.hosts.test_first_minibatch import AGENTS, agent_runner

SLOW_TO_UNROLL = ("hodgkin_huxley_ppo",)
"""Agents of so many operations that torch takes minutes to make an ONNX graph of them."""
FAST = {
    "torchscript": ("lif_ppo", "lif_stateful_ppo", "lif_population_ppo", "lif_conv_ppo", "gru_ppo"),
    "onnx": ("lif_population_ppo",),
}
"""By target one agent of each kind; all others are slow."""
EACH = [
    pytest.param(target, agent, marks=[] if agent in FAST[target] else pytest.mark.slow)
    for target in FAST
    for agent in AGENTS
    if target == "torchscript" or agent not in SLOW_TO_UNROLL
]


@pytest.fixture(name="written", scope="module")
def written_once(tmp_path_factory):
    """Policy, target and file of an agent, made when they are first asked for."""
    held = {}

    def written(name, agent, *overrides):
        case = (name, agent, *overrides)
        if case not in held:
            policy, target = (
                trained_on_torch(agent, *overrides),
                registry.configure("targets", name, "--to").build(),
            )
            held[case] = policy, target, target.write(policy, tmp_path_factory.mktemp("export"))
        return held[case]

    return written


@pytest.mark.parametrize("name, agent", EACH)
def test_every_agents_file_acts_as_the_trained_agent_does(written, name, agent):
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="runs the exported graph")
    policy, target, path = written(name, agent)
    step, agreement = target.open_session(path), VerificationResult()
    policy.reset()
    with torch.inference_mode():
        for x in walk(policy):
            before = get_flat_state(policy)
            expected = [
                policy(TensorDict(dict.fromkeys(policy.obs_groups, x), batch_size=[1])).numpy(),
                *get_flat_state(policy),
            ]
            agreement.compare(step(x.numpy(), before), expected, target, policy)
    assert agreement.mismatches <= target.max_mismatch_share * agreement.steps, agreement


BATCHED = {
    "delays": ("lif_ppo", "agent.network.recurrent={name: recurrent, delays: 3}"),
    "delays of two layers": (
        "alif_ppo",
        "agent.network.recurrent={name: recurrent, delays: 2}",
        "agent.network.layers=[8,8]",
    ),
    "lateral": ("lif_ppo", "agent.network.recurrent=lateral", "agent.network.encoder=rate"),
    "images": ("lif_conv_ppo",),
    "ANN": ("mlp_ppo",),
}


@pytest.mark.parametrize("case", BATCHED)
def test_torchscript_without_a_state_takes_any_batch(written, case):
    policy, _, path = written("torchscript", *BATCHED[case])
    scripted = torch.jit.load(path)
    seen = walk(policy)[:5, 0]
    with torch.inference_mode():
        together = scripted(seen)
        single = torch.cat([scripted(x[None]) for x in seen])
    # a matrix product of one row may round otherwise than one of many
    torch.testing.assert_close(together, single, rtol=1e-5, atol=1e-6)
    assert together.std(0).min() > 0.0


@pytest.mark.parametrize("agent", FAST["torchscript"])
def test_torchscript_keeps_no_graph_from_one_control_step_to_the_next(written, agent):
    policy, _, path = written("torchscript", agent)
    scripted = torch.jit.load(path)
    for x in walk(policy)[:2]:
        assert not scripted(x).requires_grad
    assert not any(value.requires_grad for value in (*scripted.parameters(), *scripted.buffers()))
    weights = [p for name, p in policy.named_parameters() if name.endswith("weight")]
    assert weights and all(weight.requires_grad for weight in weights), "the policy can be trained on"


@pytest.mark.parametrize("name", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_without_a_state_begins_every_control_step_as_the_policy_does(name, written):
    """With a state, even a zero one, this encoder would take the observation for the reference and send nothing."""
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="runs the exported graph")
    policy, target, path = written(name, "lif_ppo", "agent.network.encoder={name: delta, start: first}")
    seen, step = walk(policy), target.open_session(path)
    found = np.concatenate([step(x.numpy(), [])[0] for x in seen])
    assert found.std(0).min() > 0.0
    np.testing.assert_allclose(found, live(policy, seen), rtol=0.0, atol=target.tolerance)


PLACES = [str(Path(__file__).parents[2]), str(Path.home()), "site-packages", "stack_trace"]


def places_in(path):
    """Return those of `PLACES` that the bytes of a file name, or those of the parts of an archive."""
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content += b"".join(archive.read(part) for part in archive.namelist())
    return [place for place in PLACES if place.encode() in content]


@pytest.mark.parametrize(
    "name, agent",
    [("onnx", "lif_population_ppo"), ("torchscript", "lif_population_ppo"), ("torchscript", "mlp_ppo")],
)
def test_a_file_holds_no_path_of_the_machine_that_wrote_it(written, name, agent):
    assert not places_in(written(name, agent)[2])


def test_a_file_of_rsl_rls_own_export_holds_none_either(tmp_path):
    agent_runner("lif_ppo").export_policy_to_jit(str(tmp_path))
    assert not places_in(tmp_path / "policy.pt")
    assert "usage" in torch.jit.load(tmp_path / "policy.pt").about


def listing(folder):
    """Every file below a folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FILES = {
    "c": ("policy.c", "policy.h"),
    "c_int8": ("int8/policy.c", "int8/policy.h"),
    "nir": ("policy.nir",),
    "onnx": ("policy.onnx", "policy.onnx.data"),
    "torchscript": ("policy.pt",),
}
QUICK = ("c", "c_int8", "torchscript")
"""Targets that take no seconds to write."""


@pytest.fixture(name="place")
def a_folder_with_older_files(tmp_path):
    """A folder with a file of every target's, and one of somebody else's."""
    for name in (*(name for names in FILES.values() for name in names), "notes.txt"):
        (tmp_path / "exported" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "exported" / name).write_text(f"older {name}")
    return tmp_path / "exported"


def wrong_sign(cls, monkeypatch):
    """Let a target write the policy with its readout reversed."""
    write = cls.write

    def reverse(self, model, folder):
        with torch.no_grad():
            model.network.readout.weight *= -1.0
        try:
            return write(self, model, folder)
        finally:
            with torch.no_grad():
                model.network.readout.weight *= -1.0

    monkeypatch.setattr(cls, "write", reverse)


def not_c(cls, monkeypatch):
    """Let the compiler refuse the file in C."""
    write = cls.write

    def spoil(self, model, folder):
        path = write(self, model, folder)
        path.write_text(f"{path.read_text()}}}")
        return path

    monkeypatch.setattr(cls, "write", spoil)


def no_form(cls, monkeypatch):
    """Let a target fail at an operation that it has no form for, once it has written half."""

    def fail(_self, _model, folder):
        (folder / "policy.half").write_text("half")
        raise UserError(f"{folder / 'policy.half'}: torch's operation 'sort' has no form")

    monkeypatch.setattr(cls, "write", fail)


FAILURES = {
    "a wrong file in C": (wrong_sign, C, "policy.c: actions differ"),
    "a wrong TorchScript": (wrong_sign, TorchScript, "policy.pt: actions differ"),
    "a file that is no C": (not_c, C, "policy.c: compiling failed"),
    "no form": (no_form, TorchScript, "policy.half: torch's operation"),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case == "a wrong TorchScript")) for case in FAILURES],
)
def test_a_failed_export_leaves_every_older_file_as_it_was(case, place, monkeypatch):
    fail, cls, said = FAILURES[case]
    fail(cls, monkeypatch)
    before, policy = listing(place), trained_on_torch("lif_ppo")
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        _export.write_and_verify(policy, Restarted(), place, _targets.make_targets(QUICK))
    assert listing(place) == before
    assert [path.name for path in place.rglob("*.part")] == []
    assert str(place / said.partition(":")[0]) in str(refusal.value), "the file's own place is named"


@pytest.mark.parametrize("cls", [Nir, pytest.param(Onnx, marks=pytest.mark.slow)])
def test_a_wrong_file_of_a_slow_target_stays_aside_too(cls, place, monkeypatch):
    pytest.importorskip("nir" if cls is Nir else "onnxruntime")
    wrong_sign(cls, monkeypatch)
    before, name = listing(place), cls.__name__.lower()
    with pytest.raises(UserError, match=f"policy.{name}: actions differ"):
        _export.write_and_verify(
            trained_on_torch("lif_ppo"), Restarted(), place, _targets.make_targets([name])
        )
    assert listing(place) == before


@pytest.mark.parametrize("names", [QUICK, pytest.param((*QUICK, "onnx"), marks=pytest.mark.slow)], ids=len)
def test_files_that_are_proved_take_their_places_and_leave_nothing_else(names, place):
    if "onnx" in names:
        pytest.importorskip("onnxruntime")
    found = _export.write_and_verify(
        trained_on_torch("lif_ppo"), Restarted(), place, _targets.make_targets(names)
    )
    after = listing(place)
    assert set(found) == {place / FILES[name][0] for name in names}
    new = {name for target in names for name in FILES[target]} - {"policy.onnx.data"}
    old = {"notes.txt", *(name for target in FILES if target not in names for name in FILES[target])}
    assert set(after) == new | old, "older weights beside the ONNX file are gone"
    assert {name for name, content in after.items() if content.startswith(b"older")} == old


def test_a_file_without_a_runtime_is_exported_without_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(TorchScript, "open_session", lambda _self, _path: None)
    targets = _targets.make_targets(["torchscript", "c"])
    found = _export.write_and_verify(trained_on_torch("lif_ppo"), Restarted(), tmp_path, targets)
    assert list(found) == [tmp_path / "policy.pt", tmp_path / "policy.c"]
    assert found[tmp_path / "policy.pt"] is None and found[tmp_path / "policy.c"].mismatches == 0


@pytest.mark.parametrize(
    "agent",
    [
        ("mlp_ppo", "agent.actor.hidden_dims=[400,200,100]"),
        pytest.param(("lif_reservoir_ppo",), marks=pytest.mark.slow),
    ],
)
def test_what_torch_sums_in_another_order_is_off_by_a_share_of_the_largest_action(agent, tmp_path):
    policy, target = trained_on_torch(*agent), C()
    step, seen = target.open_session(target.write(policy, tmp_path)), 100.0 * walk(policy)
    wanted, agreement, wrong = live(policy, seen), VerificationResult(), VerificationResult()
    for x, action in zip(seen, wanted, strict=True):
        found = step(x.numpy(), [])
        agreement.compare(found, [action[None]], target, policy)
        wrong.compare([found[0] * 1.0001], [action[None]], target, policy)
    assert agreement.mismatches == 0, agreement
    assert (
        agreement.max_accepted_error > 1e-5 and agreement.largest > 10.0
    ), "more than what is allowed of a small one"
    assert wrong.mismatches > 10, "and an error of one in ten thousand is found"


@pytest.mark.parametrize("broken", [0, 1], ids=["action", "state"])
def test_an_action_or_a_state_that_is_no_number_is_no_agreement(broken):
    agreement, action = VerificationResult(), np.zeros((1, 2), np.float32)
    returned = [action, action]
    returned[broken] = action * np.nan
    agreement.compare(returned, [action, action], Onnx(), trained_on_torch("lif_ppo"))
    assert (agreement.mismatches, agreement.max_mismatch_error) == (1, math.inf)
