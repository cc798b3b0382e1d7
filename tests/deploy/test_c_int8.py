"""policy.c in integers: what a reference in torch does, to the last bit; no float within the steps; near the policy."""

import copy
import re

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config import registry
from spiky_rl.config.registry import UserError
from spiky_rl.connections._quantization import compute_scales, quantize
from spiky_rl.deploy import _export, _targets, c, c_int8
from spiky_rl.deploy._calibration import CalibrationRollout, compute_ranges, read_rollout
from spiky_rl.deploy._targets import ExportOptions
from spiky_rl.deploy.base import ExportError, get_entry_name
from spiky_rl.deploy._verification import verify_targets
from spiky_rl.networks._layer import quantize_weights
from spiky_rl.run.run_plan import RunRequest
from tests.deploy.test_c import COMPILERS, act, assert_compiles, assert_stays_within_its_struct, live, walk
from tests.deploy.trained import trained
from tests.hosts.point_env import PointEnv
from tests.hosts.test_first_minibatch import agent_runner

NET = "agent.network."
CASES = {
    "lif": ("lif_ppo",),
    "lif, very slow": ("lif_ppo", "neuron.tau=500.0"),
    "lif, as an equation": ("lif_ppo", "neuron.input_gain=ode", "neuron.threshold=0.3"),
    "lif, normalised": ("lif_ppo", "encoder=sigma_delta", "agent.actor.obs_normalization=true"),
    "lif, learned": ("lif_ppo", "neuron.learn=[tau,threshold]", "neuron.reset=zero"),
    "lif, sparse": ("lif_ppo", "connection.density=0.3", "connection.dale=true", "decoder.read=mean"),
    "lif, stateful": ("lif_stateful_ppo", "encoder={name: delta, start: first}", "decoder.read=max"),
    "lif, lateral": ("lif_ppo", "encoder=delta", "recurrent=lateral", "decoder=population_vector"),
    "lif, rate": ("lif_ppo", "encoder=rate", "decoder=rate"),
    "alif": ("alif_ppo", "decoder=linear"),
    "alif, recurrent": ("alif_recurrent_ppo", "recurrent.delays=3"),
    "alif, very slow": ("alif_ppo", "neuron.tau_adaptation=2000.0", "stateful=true"),
    "sigma-delta": ("sigma_delta_ppo",),
    "sigma-delta, identity": ("sigma_delta_ppo", "steps=3", "neuron.activation=identity"),
    "population": ("lif_population_ppo",),
    "population, random": ("lif_population_ppo", "encoder.mode=poisson"),
    "latency": ("lif_latency_ppo",),
    "values and spikes": ("lif_stateful_ppo", "encoder=concat"),
    "two kinds of spikes": ("lif_ppo", "encoder={name: concat, first: rate, second: latency}"),
    "quadratic": ("quadratic_ppo",),
    "quadratic, learned": (
        "quadratic_ppo",
        "neuron.learn=[tau,critical]",
        "encoder=rate",
        "recurrent=lateral",
    ),
    "quadratic, highest": ("quadratic_ppo", "neuron.peak=3e4", "neuron.reset=2e3"),
    "trained on 8 bits": ("alif_recurrent_ppo", "quantize=int8"),
}
"""An agent each, and what of its network is changed: every neuron, codec, kind of connection and width of state."""
LAYERS = "[40,30]"
FAST = (
    "lif",
    "lif, very slow",
    "alif, recurrent",
    "sigma-delta",
    "quadratic",
)
"""One of each kind; all others are slow."""
EACH = [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES]


def policy_of(case):
    agent, *changes = CASES[case]
    changes = [text if text.startswith("agent.") else NET + text for text in (*changes, f"layers={LAYERS}")]
    return trained(agent, *changes)


@pytest.mark.slow
def test_every_encoder_and_decoder_has_a_case():
    parts = [part for case in CASES for part in policy_of(case).network.modules()]
    for room, base in (("encoder", Encoder), ("decoder", Decoder)):
        names = {get_entry_name(part) for part in parts if isinstance(part, base)}
        assert names == set(c_int8.CInt8.supported[f"network.{room}.name"])


def rollout_of(policy, seed=0):
    """Observations for a target to look at: no simulator is needed for them."""
    seen = walk(policy, seed)
    keep = torch.ones(len(seen), 1)
    keep[0] = 0.0
    return CalibrationRollout(seen.flatten(2), keep)


@pytest.fixture(name="made", scope="module")
def made_once(tmp_path_factory):
    """Policy, target and file of a case, made when they are first asked for."""
    held = {}

    def made(case):
        if case not in held:
            policy, target = policy_of(case), registry.configure("targets", "c_int8", "--to").build()
            target.calibrate(rollout_of(policy))
            folder = tmp_path_factory.mktemp("int8")
            held[case] = policy, target, target.write(policy, folder)
        return held[case]

    return made


@pytest.mark.parametrize("case", EACH)
def test_the_file_does_what_the_reference_does(made, case):
    policy, target, path = made(case)
    seen, step = walk(policy, seed=1), target.open_session(path)
    seen[5] *= 1e6  # far beyond the ranges of the calibration
    seen[9, :, 0] = float("nan")
    found = act(step, seen)
    assert found.std() > 0.0
    np.testing.assert_array_equal(found, live(target.get_reference_model(policy), seen))


@pytest.mark.parametrize("case", EACH)
def test_states_in_integers_move_actions_less_than_weights_of_8_bits_do(made, case):
    policy, target, _ = made(case)
    seen, rounded = walk(policy, seed=2), copy.deepcopy(policy)
    quantize_weights(rounded.network.layers, rounded.network.decoder)
    rounded.network._can_use_stack = False
    exact, coarse, integers = (
        live(each, seen) for each in (policy, rounded, target.get_reference_model(policy))
    )
    of_weights, of_states = np.abs(exact - coarse).mean(), np.abs(coarse - integers).mean()
    if case == "trained on 8 bits":
        # recurrence magnifies whatever differs: a bias off by 1e-4 moves this policy's actions by up to 0.4 of their deviation too
        begin = np.abs(coarse - integers)[:10]
        assert of_weights == 0.0 and begin.max() < 1e-3 * exact.std()
    else:
        assert 0.0 < of_states < 0.5 * of_weights


def test_a_slow_neuron_has_32_bits_and_a_fast_one_16(made):
    wide = {case: [s.is_wide for s in made(case)[1].network.stages] for case in ("lif", "lif, very slow")}
    assert wide == {"lif": [False, False], "lif, very slow": [True, True]}
    assert made("alif, very slow")[1].network.stages[0].is_trace_wide
    assert not made("alif")[1].network.stages[0].is_trace_wide


def test_a_batch_of_environments_is_that_many_single_ones():
    policy = policy_of("alif, recurrent")
    target = c_int8.CInt8()
    target.calibrate(rollout_of(policy))
    alone, together = target.get_reference_model(policy), target.get_reference_model(policy)
    one, other = walk(policy, 3), walk(policy, 4)
    for policies in (alone, together):
        policies.reset()
    first = live(alone, one)
    for t, x in enumerate(torch.cat([one, other], 1)):
        seen = TensorDict(dict.fromkeys(policy.obs_groups, x), batch_size=[2])
        with torch.inference_mode():
            actions = together(seen)
        np.testing.assert_array_equal(actions[0].numpy(), first[t])
        if t == 60:
            together.reset(torch.tensor([0, 1]))
    assert all(int(s[:, 1].abs().sum()) > 0 for s in together.state[:1])


def test_a_quantised_network_is_on_another_device_as_a_whole(made):
    network = copy.deepcopy(made("values and spikes")[1].network)
    network._move_to(torch.device("meta"))
    parts = [*network.encoders.values(), *network.stages, network.decoding]
    found = {value.device.type for part in parts for value in vars(part).values() if torch.is_tensor(value)}
    assert found == {"meta"}


@pytest.mark.parametrize("case", ["lif", "lif, very slow", "alif, recurrent", "sigma-delta"])
@pytest.mark.parametrize("command", COMPILERS.values(), ids=COMPILERS)
def test_compilers_have_nothing_to_say(made, command, case, tmp_path):
    assert_compiles(made(case)[2], tmp_path, command)


@pytest.mark.parametrize("case", EACH)
def test_nothing_that_is_observed_leads_outside_of_the_struct_or_of_an_integer(made, case, tmp_path):
    assert_stays_within_its_struct(made(case)[2], tmp_path)


@pytest.mark.parametrize("case", EACH)
def test_there_is_no_float_within_the_inner_steps_and_no_memory_but_the_struct(made, case):
    path = made(case)[2]
    source = path.read_text()
    body = source.partition("void policy_step")[2]
    inner = body[body.index("for (int k = 0") : body.index("// action: integers")]
    assert "float" not in inner and not re.search(r"\d\.\d|\d\.?f\b", inner)
    statics = [line for line in source.splitlines() if line.startswith("static ") and "(" not in line]
    assert statics and all(re.match(r"static const (u?int(8|16|32)_t|float) ", line) for line in statics)
    assert (
        not {"malloc", "stdio", "stdlib", "double"} & set(re.split(r"\W+", source)) and "math.h" not in source
    )


class Restarted(PointEnv):
    """One whose episodes can be begun, and are all as long as they may be."""

    def reset(self):
        self.state, self.episode_length_buf = self._draw(self.num_envs), torch.zeros_like(
            self.episode_length_buf
        )
        self.limit[:] = int(self.max_episode_length)


def test_an_export_records_an_episode_and_proves_each_file_by_the_policy_that_it_is_to_equal(tmp_path):
    policy, env = agent_runner("lif_ppo").alg.get_policy().eval(), Restarted()
    found = _export.write_and_verify(policy, env, tmp_path, _targets.make_targets(["c", "c_int8"]))
    single, integers = found[tmp_path / "policy.c"], found[tmp_path / "int8" / "policy.c"]
    assert (
        single.steps == integers.steps == env.max_episode_length
        and single.mismatches == integers.mismatches == 0
    )
    assert single.reference_difference == 0.0 < integers.reference_difference < 0.1
    header = (tmp_path / "int8" / "policy.h").read_text().replace("\n//", "")
    assert "Verified at its export: equal to the last bit to the policy in int8 in" in header
    target = c_int8.CInt8()
    target.calibrate(rollout_of(policy))
    path = target.write(policy, tmp_path / "other")
    path.write_text(path.read_text().replace("+ decoder_bias[n]", "- decoder_bias[n]"))
    with pytest.raises(UserError, match="actions differ from the live policy's in"):
        verify_targets(policy, env, {path: target}, lambda share: None)


def test_a_robots_own_observations_set_the_ranges(tmp_path):
    policy, target = agent_runner("lif_stateful_ppo").alg.get_policy().eval(), c_int8.CInt8()
    seen = 5.0 * walk(policy)
    np.save(tmp_path / "seen.npy", seen[:, 0].numpy())
    env, targets = Restarted(), _targets.make_targets(["c_int8"])
    (path,) = _export.write_and_verify(policy, env, tmp_path, targets, calibration=tmp_path / "seen.npy")
    keep = torch.ones(len(seen), 1)
    keep[0] = 0.0
    target.calibrate(CalibrationRollout(seen.flatten(2), keep, "in seen.npy"))
    assert path.read_text() == target.write(policy, tmp_path / "other").read_text()
    assert "steps of 1 robot in seen.npy" in " ".join(
        path.with_suffix(".h").read_text().replace("// ", "").split()
    )


@pytest.mark.parametrize("agent", ["lif_ppo", "lif_stateful_ppo"])
def test_an_observation_that_is_no_number_sets_the_ranges_that_it_has_as_0(agent):
    """A policy takes it as 0, so it does in a recorded episode too."""
    policy = trained(agent)
    spoilt, plain = rollout_of(policy), rollout_of(policy)
    spoilt.observations[3, 0, 1], plain.observations[3, 0, 1] = float("nan"), 0.0
    found, expected = compute_ranges(policy, spoilt), compute_ranges(policy, plain)
    assert found.observed == expected.observed > 0.0
    assert all(map(torch.equal, found.states, expected.states))


WRONG = {
    "width": (np.zeros((5, 3)), r"shape \[5, 3\] given"),
    "dimensions": (np.zeros(4), "shape"),
    "nothing": (np.zeros((0, 4)), "shape"),
    "not finite": (np.full((5, 4), np.nan), "not finite"),
    "too large": (np.full((5, 4), 1e300), "not finite"),
    "text": (np.array(["a"]), "no array of numbers"),
    "objects": (np.array([None]), "allow_pickle"),
    "an empty file": (b"", "No data left"),
    "a broken archive": (b"PK\x03\x04", "not a zip file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_observations_that_do_not_fit_are_refused(case, tmp_path):
    values, said = WRONG[case]
    if isinstance(values, bytes):
        (tmp_path / "seen.npy").write_bytes(values)
    else:
        np.save(tmp_path / "seen.npy", values)
    with pytest.raises(UserError, match=f"--calibrate: .*seen.npy: .*{said}"):
        read_rollout(tmp_path / "seen.npy", 4)


def test_a_calibration_is_refused_before_a_simulator_starts(tmp_path):
    for options in ({"to": "c", "calibrate": tmp_path}, {"to": "c_int8", "calibrate": tmp_path / "none.npy"}):
        with pytest.raises(UserError, match="--calibrate: "):
            ExportOptions(**options).check_request(RunRequest(task="cartpole"))


@pytest.mark.parametrize("coarse", [False, True])
def test_an_export_warns_of_integers_that_act_otherwise(coarse, tmp_path, monkeypatch, caplog):
    """Weights of three levels in the place of 255 move actions by more than a tenth of their spread."""
    if coarse:
        monkeypatch.setattr("spiky_rl.connections._quantization.MAX_MULTIPLE", 1)
    policy = trained("lif_stateful_ppo")
    (found,) = _export.write_and_verify(
        policy, Restarted(), tmp_path, _targets.make_targets(["c_int8"])
    ).values()
    assert found.mismatches == 0 and found.action_spread > 0.0
    assert found.is_imprecise == coarse
    assert [record.levelname for record in caplog.records].count("WARNING") == coarse


def test_the_header_says_what_the_state_is_and_what_it_was_calibrated_on(made):
    header = made("alif, recurrent")[2].with_suffix(".h").read_text()
    assert "120 control steps of 1 robot under the policy in single precision" in " ".join(
        header.replace("// ", "").split()
    )
    fields = re.findall(r"^  (\w+) (\w+)\[(\d+)\];  // (.+)$", header, re.MULTILINE)
    assert {"layers_0_neuron_v", "layers_0_neuron_a", "layers_0_past"} <= {
        name for _, name, _, _ in fields
    } and all(text for *_, text in fields)
    sizes = {"int64_t": 8, "float": 4, "int32_t": 4, "int16_t": 2, "uint16_t": 2, "uint8_t": 1}
    total = sum(sizes[kind] * int(count) for kind, _, count, _ in fields)
    assert c.read_sizes(made("alif, recurrent")[2])["BYTES"] == -(-total // 4) * 4


def test_weights_are_those_that_training_on_8_bits_saw(made):
    policy, _target, path = made("trained on 8 bits")
    for i, layer in enumerate(policy.network.layers):
        unit = compute_scales(layer.connection.unrounded_weights(), layer.recurrent.unrounded_weights())
        for name, link in (
            (f"layers_{i}_weight", layer.connection),
            (f"layers_{i}_recurrent_weight", layer.recurrent),
        ):
            (text,) = re.findall(rf"int8_t {name}\[\d+\] = {{([^}}]+)}}", path.read_text())
            written = torch.tensor([int(x) for x in text.split(",")]).view(link.unrounded_weights().shape)
            assert written.abs().max() > 30, "the check sees weights"
            assert torch.equal(written * unit, link.synapses())
            assert torch.equal(written.float(), quantize(link.unrounded_weights(), unit))


REFUSED = {
    "hodgkin_huxley_ppo": "network.neuron.name: hodgkin_huxley given; allowed for c_int8: alif, lif, quadratic, sigma_delta",
    "lif_conv_ppo": "network.connection[0].name: convolutional given; allowed for c_int8: linear",
    "lif_reservoir_ppo": "network.name: reservoir given; allowed for c_int8: feedforward",
    "lif_plastic_reservoir_ppo": "network.name: reservoir given",
    "mlp_ppo": "network: none given; allowed for c_int8: feedforward",
    "gru_ppo": "network: none given",
}


@pytest.mark.parametrize("agent", REFUSED)
def test_what_has_no_form_in_integers_is_refused_by_name_before_anything_is_written(agent, tmp_path):
    policy, target = agent_runner(agent).alg.get_policy().eval(), c_int8.CInt8()
    target.calibrate(rollout_of(policy_of("lif")))
    with pytest.raises(ExportError, match=re.escape(f"agent.{REFUSED[agent]}")):
        target.write(policy, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, value", [("peak", 32768.0), ("reset", -40000.0)])
def test_a_quadratic_neuron_beyond_32_bits_is_refused_by_its_key(name, value, tmp_path):
    policy, target = trained("quadratic_ppo", f"{NET}neuron.{name}={value}"), c_int8.CInt8()
    target.calibrate(rollout_of(policy))
    said = f"agent.network.neuron.{name}: {value} given; allowed for c_int8: -32767 to 32767"
    with pytest.raises(ExportError, match=re.escape(said)):
        target.write(policy, tmp_path)
    with pytest.raises(ExportError, match=re.escape(said)):
        target.get_reference_model(policy)  # which an evaluation measures
    assert not list(tmp_path.iterdir())


def test_a_missing_rollout_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no ranges of the states; call calibrate"):
        c_int8.CInt8().write(policy_of("lif"), tmp_path)


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    policy = policy_of("lif")
    with torch.no_grad():
        policy.network.readout.weight[0, 0] = float("nan")
    target = c_int8.CInt8()
    target.calibrate(rollout_of(policy))
    with pytest.raises(ExportError, match="nan"):
        target.write(policy, tmp_path)
    assert not list(tmp_path.iterdir())
