"""A policy in C on a Cortex-M4: what it takes there, and that it acts there as it does here."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from spiky_rl.cli import export
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.deploy import _footprint, c, c_int8
from spiky_rl.learners.rsl_rl.actor import build_actor
from tests.deploy import chips
from tests.deploy.perturbed import perturb_learned_values
from tests.deploy.test_c import answers, live, walk
from tests.deploy.test_c_int8 import rollout_of
from tests.hosts.point_env import config
from tests.hosts.test_first_minibatch import agent_runner

CHIP, SIZES = "cortex-m4", "agent.network.layers=[128,64]"
CODE = 5_000
"""Bytes of flash that are no weights, at most."""
ACT = Path(__file__).parents[2] / "examples" / "deploy" / "act.c"
needs_compiler = pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"), reason="arm-none-eabi-gcc is not installed"
)


@pytest.fixture(name="written", scope="module")
def written_once(tmp_path_factory):
    """The same policy in single precision and in integers."""
    policy = agent_runner("lif_ppo", SIZES).alg.get_policy().eval()
    folder, integers = tmp_path_factory.mktemp("chip"), c_int8.CInt8()
    integers.calibrate(rollout_of(policy))
    return policy, c.C().write(policy, folder), integers.write(policy, folder), integers


@needs_compiler
def test_the_report_counts_weights_struct_and_stack_and_integers_take_about_a_quarter(written):
    policy, single, integers, _ = written
    weights = sum(layer.connection.weight.numel() for layer in policy.network.layers)
    weights += policy.network.readout.weight.numel()
    found = {path: _footprint.measure_footprint(path, CHIP) for path in (single, integers)}
    for path, size in ((single, 4), (integers, 1)):
        assert size * weights < found[path].flash < size * weights + CODE
        assert 0 < found[path].stack < 1_000
    assert found[integers].flash < 0.35 * found[single].flash
    assert found[single].state == c.read_sizes(single)["BYTES"]
    assert found[integers].state == c.read_sizes(integers)["BYTES"] < found[single].state


@needs_compiler
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
def test_the_ants_recurrent_agent_fits_into_400_kb_at_every_level(level, tmp_path, monkeypatch):
    spec = resolve_agent("alif_recurrent_ppo", "Isaac-Ant", config(), [])
    ant = TensorDict({"policy": torch.zeros(1, 60)}, batch_size=[1])
    policy = perturb_learned_values(build_actor(spec, ant, 8, ["policy"]).eval())
    path = c.C().write(policy, tmp_path)
    monkeypatch.setattr(_footprint, "OPTIMIZATION_FLAGS", (level, *_footprint.OPTIMIZATION_FLAGS[1:]))
    found = _footprint.measure_footprint(path, CHIP)
    weights = 4 * (60 * 256 + 256 * 256 + 256 * 8)
    assert weights < found.flash < 400_000, found


@needs_compiler
def test_a_file_in_a_relative_folder_is_measured_too(written, monkeypatch):
    monkeypatch.chdir(written[1].parent)
    assert _footprint.measure_footprint(Path("policy.c"), CHIP) == _footprint.measure_footprint(
        written[1], CHIP
    )


@needs_compiler
def test_what_the_chips_compiler_refuses_is_said_in_its_words(written, tmp_path):
    for name in ("policy.c", "policy.h"):
        shutil.copy(written[2].with_name(name), tmp_path)
    path = tmp_path / "policy.c"
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(UserError, match="arm-none-eabi-gcc failed: "):
        _footprint.measure_footprint(path, CHIP)


@needs_compiler
@pytest.mark.skipif(not shutil.which("qemu-arm"), reason="qemu-arm is not installed")
@pytest.mark.parametrize("which", [1, 2], ids=["single precision", "integers"])
def test_on_the_chip_a_policy_acts_as_it_does_here(written, which, tmp_path):
    policy, path = written[0], written[which]
    machine = [*_footprint.CHIPS[CHIP][1], "-std=c99", "-O2", "--specs=rdimon.specs"]
    line = ["arm-none-eabi-gcc", *machine, f"-I{path.parent}", ACT, path, "-o", tmp_path / "act.elf", "-lm"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if "rdimon" in done.stderr:
        pytest.skip("newlib's rdimon.specs is not installed")
    assert done.returncode == 0, done.stderr
    seen = walk(policy)
    found = answers(["qemu-arm", "-cpu", CHIP, tmp_path / "act.elf"], seen)
    expected = live(policy if which == 1 else written[3].get_reference_model(policy), seen)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "which, chip",
    [(1, "cortex-m4"), (1, "rv32imafc"), (2, "cortex-m4"), (2, "rv32imafc"), (2, "rv32imac")],
    ids=lambda value: {1: "single precision", 2: "integers"}.get(value, value),
)
def test_a_bare_chip_acts_as_it_does_here_and_counts_its_instructions(written, which, chip):
    """Without an operating system, on ARM and RISC-V; integers without a floating-point unit too."""
    if missing := chips.find_missing(chip):
        pytest.skip(f"{missing} is not installed")
    policy, path = written[0], written[which]
    seen = walk(policy)[:30]
    found, instructions = chips.act(path, seen.flatten(1).numpy(), chip)
    expected = live(policy if which == 1 else written[3].get_reference_model(policy), seen)
    np.testing.assert_array_equal(found, expected)
    connections = [layer.connection.weight.numel() for layer in policy.network.layers]
    assert connections[0] < instructions < 30 * sum(connections) * policy.network.steps


def test_a_report_is_refused_before_a_simulator_starts(monkeypatch):
    line = ["--task", "cartpole", "--to"]
    with pytest.raises(UserError, match="--report: cortex-m5 given; allowed: cortex-m4; did you mean"):
        export.export([*line, "c", "--report", "cortex-m5"])
    with pytest.raises(UserError, match="cortex-m4 given .*; allowed: --to c or c_int8"):
        export.export([*line, "onnx", "--report", CHIP])
    monkeypatch.setattr(c, "find_compiler", lambda: ["cc"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        UserError, match="arm-none-eabi-gcc is not installed; Debian has it in gcc-arm-none-eabi"
    ):
        _footprint.require_compiler(CHIP)
