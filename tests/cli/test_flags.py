"""A flag is a field: what settings declare is what a command takes, refuses and says of itself."""

import json
from pathlib import Path
from typing import Literal

import pytest

from spiky_rl.cli import classify, common, compare, evaluate, export, flags, grow, play, train, tune
from spiky_rl.config.options import Settings, UserError, get_options, option

COMMANDS = (classify, compare, export, grow, play, train, tune)
UNTOLD = ("null:", "empty:", "PydanticUndefined", "(default: )", "(default: None)", "(default: False)")


class Walk(Settings):
    """A field of every kind."""

    where: str = option(..., "the place")
    steps: int | None = option(None, "of the walk; null: until it is there", low=1, high=9)
    pace: float = option(0.5, "metres a step", low=0.0, below=1.0)
    gait: Literal["trot", "walk"] = option("trot", "how", flags=["--gait", "-g"])
    legs: tuple[str, ...] = option((), "which of them", metavar="LEG,LEG")
    seen: bool = option(True, "whether it is watched")
    film: bool = option(False, "film 100 % of it", flags=["--film", "--record"])
    log: Path = option(Path("logs"), "folder")
    more: tuple[str, ...] = option((), "assignments", flags=["more"], metavar="key=value")
    memory: dict[str, int] = option({}, "no flag at all", flags=[])


def parser(**how) -> common.Parser:
    made = common.Parser("walk", None)
    flags.add_flags(made, Walk, **how)
    return made


def test_a_flag_that_is_not_given_is_left_to_its_fields_default():
    args = parser().parse(["--where", "hill"])
    assert flags.get_given_values(Walk, args) == {"where": "hill", "more": []}
    assert flags.parse_settings(Walk, args) == Walk(where="hill")
    assert flags.parse_settings(Walk, args, memory={"left": 1}).memory == {"left": 1}


def test_every_kind_of_field_is_read():
    line = ["a=1", "--where", "hill", "--steps", "3", "--pace", "0.25", "-g", "walk", "--no-seen", "--record"]
    found = flags.parse_settings(Walk, parser().parse([*line, "--log", "x", "b=2"]))
    wanted = {"steps": 3, "pace": 0.25, "gait": "walk", "seen": False, "film": True, "log": Path("x")}
    assert found == Walk(where="hill", more=("a=1", "b=2"), **wanted)


def test_a_command_may_take_some_fields_and_have_defaults_of_its_own():
    found = flags.get_given_values(Walk, parser(only=("steps", "gait"), steps=4).parse([]))
    assert found == {"steps": 4}
    assert "where" not in flags.get_given_values(Walk, parser(without=("pace",), optional=True).parse([]))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--steps", "0"], "--steps: 0 is out of range; it must be between 1 and 9"),
        (["--steps", "10"], "--steps: 10 is out of range; it must be between 1 and 9"),
        (["--steps", "2.5"], "--steps: expected a whole number, got '2.5'"),
        (["--pace", "fast"], "--pace: expected a number, got 'fast'"),
        (["--pace", "-0.5"], "--pace: -0.5 is out of range; it must be at least 0.0 and below 1.0"),
        (["--pace", "1"], "--pace: 1.0 is out of range; it must be at least 0.0 and below 1.0"),
        (["--pace", "nan"], "--pace: nan is out of range; it must be finite"),
        (["--gait", "gallop"], "invalid choice: 'gallop'"),
        (["--memory", "1"], "unrecognized arguments: --memory"),
        (["--step", "1"], "did you mean '--steps'?"),
    ],
)
def test_what_a_field_does_not_take_is_refused_by_its_flag(line, words, capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse(["--where", "hill", *line])
    assert end.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flag", "here"),
    [
        (train, "--model_path", "--checkpoint FILE"),
        (train, "--livestream", "--visualizer viser"),
        (export, "--viz", "--visualizer viser"),
        (export, "--video", "spiky play --video"),
        (evaluate, "--num_envs", "spiky evaluate --episodes N"),
        (evaluate, "--num_envs=8", "spiky evaluate --episodes N"),
        (evaluate, "--video", "spiky play --video"),
        (evaluate, "--video_length", "spiky play --video --video_length N"),
        (play, "--logger", "spiky train --logger"),
        (play, "--experiment", "did you mean '--experiment_name'"),
    ],
)
def test_a_flag_of_isaac_labs_own_commands_is_answered_by_what_it_is_called_here(command, flag, here, capsys):
    with pytest.raises(SystemExit) as ended:
        command.build_parser().parse(["--task", "cartpole", flag])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1 and flag in line and here in line


@pytest.mark.parametrize(
    ("line", "checkpoint"),
    [
        ("--headless", None),
        ("--resume", "latest"),
        ("--use_pretrained_checkpoint", "pretrained"),
        ("--use_last_checkpoint", "latest"),
        ("--resume --checkpoint best", "best"),
    ],
)
def test_isaac_labs_words_for_checkpoints_work(line, checkpoint):
    args = train.build_parser().parse(["--task", "cartpole", *line.split()])
    assert getattr(args, "checkpoint", None) == checkpoint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--load_run", "--load_run: expected the name"),
        ("--load_run --headless", "--load_run: expected the name"),
        ("--load_run 2026-11-29", "^--load_run 2026-11-29: no run with checkpoints below logs"),
        ("--load_run .*(", r"^--load_run \.\*\(: neither a name nor a regular expression"),
        *(
            (f"--use_pretrained_checkpoint {other}", f"checkpoint and {other.split()[0]}: pass only one")
            for other in ("--load_run x", "--checkpoint best", "--resume", "--use_last_checkpoint")
        ),
    ],
)
def test_a_run_that_is_not_named_or_named_twice_is_refused(line, words):
    with pytest.raises(UserError, match=words):
        train.build_parser().parse(["--task", "cartpole", *line.split()])


@pytest.fixture
def runs(tmp_path):
    """Runs of two agents on Isaac-Ant and of one on Isaac-Cartpole, each with three checkpoints and a best one."""
    trained = [
        ("ant", "06", "lif_ppo"),
        ("ant", "07", "lif_ppo"),
        ("ant", "08", "mlp_ppo"),
        ("cartpole", "09", "lif_ppo"),
    ]
    for task, day, agent in trained:
        run = tmp_path / "rsl_rl" / task / f"2026-11-{day}"
        run.mkdir(parents=True)
        manifest = {"task": f"Isaac-{task.title()}", "metadata": {"agent": agent}}
        (run / "run.json").write_text(json.dumps(manifest))
        for name in ("model_0.pt", "model_90.pt", "model_100.pt", "best.pt"):
            (run / name).touch()
    return tmp_path / "rsl_rl"


def get_checkpoint(line, runs):
    args = train.build_parser().parse([*line.split(), "--log_root", str(runs.parent)])
    return str(Path(args.checkpoint).relative_to(runs))


@pytest.mark.parametrize(
    ("line", "checkpoint"),
    [
        ("--task Isaac-Ant-v0 --agent lif_ppo --load_run .*", "ant/2026-11-07"),
        ("--task ant --agent mlp_ppo --load_run .*", "ant/2026-11-08"),
        ("--task Isaac-Ant --load_run=2026-11-0[67]", "ant/2026-11-07"),
        ("--task Isaac-Cartpole --load_run 2026 --headless", "cartpole/2026-11-09"),
        ("--task Isaac-Ant --load_run 2026 --rl_library rsl_rl --experiment_name ant", "ant/2026-11-08"),
        ("--task Isaac-Ant --resume --load_run 2026-11-06", "ant/2026-11-06"),
        (
            "--task Isaac-Ant --resume --load_run 2026-11-06 --checkpoint model_0.pt",
            "ant/2026-11-06/model_0.pt",
        ),
        ("--task Isaac-Ant --load_run 2026-11-06 --checkpoint=model_.*.pt", "ant/2026-11-06/model_100.pt"),
        ("--task Isaac-Ant --load_run 2026-11-06 --checkpoint best", "ant/2026-11-06/best.pt"),
        ("--task Isaac-Ant --load_run 2026-11-06 --checkpoint latest", "ant/2026-11-06"),
    ],
)
def test_isaac_labs_words_for_runs_find_the_last_match(line, checkpoint, runs):
    assert get_checkpoint(line, runs) == checkpoint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "--load_run 2027.*",
            "^--load_run 2027.*: no run with checkpoints below .* matches; allowed: a run folder",
        ),
        ("--agent mlp_ppo --load_run 2026-11-0[67]", "--load_run .* matches"),
        ("--load_run 2026 --experiment_name a**b", "--load_run 2026: no run"),
        ("--load_run 2026 --rl_library /rsl_rl", "--load_run 2026: no run"),
        (
            "--load_run 2026-11-06 --checkpoint model_7.pt",
            "--checkpoint model_7.pt: not found; allowed: model_0.pt, ",
        ),
    ],
)
def test_a_run_or_a_checkpoint_that_does_not_match_is_refused_by_the_flag_that_was_given(line, words, runs):
    with pytest.raises(UserError, match=words):
        get_checkpoint(f"--task Isaac-Ant {line}", runs)


def test_a_run_is_found_below_the_last_folder_of_all_runs_that_is_given(runs):
    root = ["--log_root=elsewhere", f"--log_root={runs.parent}"]
    args = train.build_parser().parse(["--task", "ant", "--resume", "--load_run", "2026-11-06", *root])
    assert args.checkpoint == str(runs / "ant" / "2026-11-06")


def test_a_flag_whose_field_has_no_default_is_required(capsys):
    with pytest.raises(SystemExit):
        parser().parse([])
    assert "required: --where" in capsys.readouterr().err


def test_what_only_the_settings_can_refuse_is_refused_by_the_flags_name_too():
    args = parser().parse(["--where", "hill", "--legs", "left"])
    with pytest.raises(UserError, match="^--legs: expected a list, got 'left'$"):
        flags.parse_settings(Walk, args)


def test_help_says_what_a_field_means_and_what_holds_without_its_flag():
    text = " ".join(parser(gait="walk").format_help().split())
    for words in (
        "the place", "of the walk; default: until it is there", "metres a step (default: 0.5)",
        "how (default: walk)", "--legs LEG,LEG", "--seen, --no-seen whether it is watched (default: True)",
        "--film, --record film 100 % of it", "(default: logs)", "key=value assignments",
    ):  # fmt: skip
        assert words in text, words
    assert "no flag at all" not in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_no_command_speaks_of_files_nulls(command):
    text = command.build_parser().format_help()
    assert not [words for words in UNTOLD if words in text]


def test_bounds_of_a_number_that_may_not_be_reached_are_declared_too():
    assert get_options(Walk)["pace"].bounds_text == "at least 0.0 and below 1.0"
    with pytest.raises(UserError, match="pace: 1.0 is out of range; it must be at least 0.0 and below 1.0"):
        Walk.check("", {"where": "hill", "pace": 1.0})


def test_help_offers_only_what_a_command_line_can_give():
    offered = evaluate.build_parser().format_help()
    assert "--episodes" in offered
    assert not any(f"{flag} " in offered for flag in ("--num_envs", "--video", "--video_length"))
    offered = " ".join(compare.build_parser().format_help().split())
    assert "its folder (in a study file also {agent: file or folder}" in offered


def test_a_study_file_in_a_folder_with_an_equals_sign_is_no_override(tmp_path):
    (folder := tmp_path / "lr=1e-3").mkdir()
    (folder / "study.yaml").write_text("{agents: [lif_ppo], tasks: [CartPole-v1]}")
    line = [str(folder / "study.yaml"), "env.x=1"]
    asked = compare.read_study(compare.build_parser().parse(line))
    assert asked.agents == ("lif_ppo",) and asked.overrides == ("env.x=1",)
    with pytest.raises(
        UserError, match="'network.neuron.tau=2' is not an override; .*mean 'agent.network.neuron.tau'"
    ):
        compare.read_study(compare.build_parser().parse(["network.neuron.tau=2", "--agents", "lif_ppo"]))


def test_an_override_that_a_study_does_not_take_is_not_blamed_on_its_file(tmp_path):
    (path := tmp_path / "study.yaml").write_text(
        "{agents: [lif_ppo], tasks: [CartPole-v1], vary: {agent.algorithm.learning_rate: [0.1, 0.2]}}"
    )
    override = "agent.algorithm.learning_rate=0.3"
    with pytest.raises(UserError, match=f"^overrides: '{override}' given"):
        compare.read_study(compare.build_parser().parse([str(path), override]))
