"""TensorBoard's HParams view of a study, read back through the plugin's own HTTP application."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

for module in ("tensorboard", "werkzeug"):
    pytest.importorskip(module, reason=f"{module} comes with the extra 'isaaclab'")

from spiky_rl.experiments.analysis.measures import compute_step_energy, find_steps_to_threshold
from spiky_rl.experiments.analysis.outcome import StudyAnalysis, analyze_study
from spiky_rl.experiments.report.hparams import CURVE, FILE, METRICS, write_hparams
from spiky_rl.experiments.run.results import ResultsError
from tests.experiments.results import CARTPOLE, ITERATIONS, MASKED, change, fail, remove, write_study

AGENTS = ("mlp_ppo", "gru_ppo", "lif_rstdp")
VARIED = "agent.network.steps"
FAILED = f"{MASKED}.lif_rstdp.network.steps=2.seed1"


@pytest.fixture(name="study", scope="module")
def a_study_of_variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(
        tmp_path_factory.mktemp("hparams") / "study", AGENTS, seeds=range(2), vary={VARIED: [2, 4]}
    )
    fail(study, FAILED)
    remove(study, f"{MASKED}.gru_ppo.network.steps=4.seed0")
    write_hparams(study)
    return study


@pytest.fixture(name="analysis", scope="module")
def its_analysis(study: Path) -> StudyAnalysis:
    return analyze_study(study)


def ask(folder: Path, route: str, request: dict[str, Any]) -> Any:
    """The plugin's answer to a request of its page."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
    from werkzeug.test import Client

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder / "tensorboard"))
    multiplexer.Reload()
    plugins: dict[str, Any] = {}
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = TBContext(data_provider=provider, plugin_name_to_instance=plugins)
    plugins["scalars"], plugin = ScalarsPlugin(context), HParamsPlugin(context)
    application: Any = plugin.get_plugin_apps()[route]
    response = Client(application).post("/", data=json.dumps(request))
    assert response.status_code == 200, response.get_data(as_text=True)
    return json.loads(response.get_data(as_text=True))


def sessions(folder: Path) -> dict[str, dict[str, Any]]:
    """By cell: status, hyper-parameters and metrics."""
    columns = [{"metric": {"tag": tag}} for tag in METRICS]
    request = {"startIndex": 0, "sliceSize": 1000, "colParams": columns, "allowedStatuses": list(STATUSES)}
    found = {}
    for group in ask(folder, "/session_groups", request)["sessionGroups"]:
        (session,) = group["sessions"]
        metrics = {value["name"]["tag"]: value["value"] for value in session.get("metricValues", [])}
        found[group["name"]] = {"status": session["status"], "hparams": group["hparams"], "metrics": metrics}
    return found


STATUSES = ("STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN")


def test_every_finished_cell_is_a_session_with_its_numbers(study: Path, analysis: StudyAnalysis):
    found = sessions(study)
    for result in analysis.results:
        session = found[result.cell]
        assert session["status"] == "STATUS_SUCCESS"
        assert session["hparams"] == {
            "agent": result.agent,
            "task": result.task,
            "seed": result.seed,
            **result.variant,
        }
        metrics = session["metrics"]
        assert metrics["score"] == pytest.approx(result.score, rel=1e-6), "event files hold float32"
        low, high = analysis.random[result.task], analysis.reference[result.task]
        assert metrics["normalised_score"] == pytest.approx((result.score - low) / (high - low), abs=1e-6)
        if result.kind == "random":
            assert set(metrics) == {"score", "normalised_score"}
            continue
        assert result.cost is not None and result.training is not None
        assert metrics["operations"] == pytest.approx(result.cost.effective_operations, rel=1e-6)
        assert metrics["energy_nj"] == pytest.approx(compute_step_energy(result, "fp32"), rel=1e-6)
        assert metrics["wall_seconds"] == pytest.approx(result.training.seconds_total, rel=1e-6)
        assert metrics.get("steps_to_threshold") == find_steps_to_threshold(
            result, analysis.solved.get(result.task)
        )


def test_a_failed_cell_is_a_failed_session_and_a_missing_one_is_none(study: Path, analysis: StudyAnalysis):
    found = sessions(study)
    assert set(found) == {result.cell for result in analysis.results} | {FAILED}
    assert found[FAILED] == {
        "status": "STATUS_FAILURE",
        "hparams": {"agent": "lif_rstdp", "task": MASKED, "seed": 1, VARIED: 2},
        "metrics": {},
    }


def test_the_experiment_names_the_question_the_hyper_parameters_and_what_the_metrics_mean(study: Path):
    found = ask(study, "/experiment", {})
    assert found["description"] == "Are more bio-plausible neurons better at embodied learning?"
    domains = {info["name"]: (info["type"], info["domainDiscrete"]) for info in found["hparamInfos"]}
    assert domains == {
        "agent": ("DATA_TYPE_STRING", [*AGENTS, "random"]),
        "task": ("DATA_TYPE_STRING", [CARTPOLE, MASKED]),
        "seed": ("DATA_TYPE_FLOAT64", [0, 1]),
        VARIED: ("DATA_TYPE_FLOAT64", [2, 4]),
    }
    assert {info["displayName"]: info["description"] for info in found["metricInfos"]} == METRICS


def test_a_session_has_its_learning_curve(study: Path, analysis: StudyAnalysis):
    request = {"sessionName": f"{CARTPOLE}.mlp_ppo.network.steps=2.seed0", "metricName": {"tag": CURVE}}
    values = ask(study, "/metric_evals", request)
    curve = next(r.curve for r in analysis.results if r.cell == request["sessionName"])
    assert (
        curve is not None and len(values) == ITERATIONS - 2
    ), "two iterations before the first episode ended"
    assert [step for _, step, _ in values] == list(curve.env_steps[2:])
    assert [value for *_, value in values] == pytest.approx(curve.returns[2:], rel=1e-6)


def files(study: Path) -> dict[str, bytes]:
    root = study / "tensorboard"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_writing_again_gives_the_same_bytes_and_takes_away_what_is_no_longer_there(tmp_path: Path):
    study = write_study(tmp_path / "study", AGENTS[:2], (CARTPOLE,), range(2))
    assert write_hparams(study) == study / "tensorboard"
    before = files(study)
    assert len(before) == 1 + 4 + 1
    write_hparams(study)
    assert files(study) == before
    (study / "tensorboard" / "notes.txt").write_text("mine", encoding="utf-8")
    remove(study, f"{CARTPOLE}.gru_ppo.seed1")
    write_hparams(study)
    left = files(study)
    assert set(before) - set(left) == {f"{CARTPOLE}.gru_ppo.seed1/{FILE}"}
    assert set(left) - set(before) == {"notes.txt"}, "only files of its own are replaced"
    assert not (study / "tensorboard" / f"{CARTPOLE}.gru_ppo.seed1").exists()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([2, "adaptive"], ["2", "adaptive"]),
        ([True, False], [True, False]),
        ([[64, 64], [8]], ["[64, 64]", "[8]"]),
    ],
)
def test_values_of_a_variant_may_be_of_any_kind(tmp_path: Path, values: list[Any], shown: list[Any]):
    study = write_study(
        tmp_path / "study", AGENTS[:1], (CARTPOLE,), [0], vary={"agent.x": [0, 1]}, random=False
    )
    for number, value in enumerate(values):
        change(study, f"{CARTPOLE}.mlp_ppo.x={number}.seed0", "variant", {"agent.x": value})
    write_hparams(study)
    found = sessions(study)
    assert [found[f"{CARTPOLE}.mlp_ppo.x={n}.seed0"]["hparams"]["agent.x"] for n in (0, 1)] == shown
    assert set(next(iter(found.values()))["metrics"]) >= {"score"}


def test_a_folder_without_a_study_is_refused(tmp_path: Path):
    with pytest.raises(ResultsError, match="study.json"):
        write_hparams(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
