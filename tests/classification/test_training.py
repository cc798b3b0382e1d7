"""A training: what ends it, and what it keeps."""

import numpy as np
import pytest

from spiky_rl.classification import training
from spiky_rl.classification.result import draw_confusion
from spiky_rl.classification.run import create_run
from spiky_rl.classification.settings import ClassifyRequest, make_settings
from spiky_rl.classification.split import split
from spiky_rl.classification.training import Trainer, TrainerSettings
from spiky_rl.config import registry
from spiky_rl.config.options import RegistryError
from tests.recorded import of_frames


def make_trainer(batch_size=12, **network):
    """A trainer of a small network on 12 samples of two classes."""
    frames = np.random.default_rng(0).poisson(1.0, (12, 2, 1, 3, 3))
    samples = of_frames(frames, np.arange(12) % 2, classes=2)
    settings = {"name": "feedforward", "layers": [8, 8], "stateful": True, "backend": "torch", **network}
    built = registry.configure("networks", settings, "network").build(inputs=(1, 3, 3), outputs=2)
    parts = split(samples, 2, 0, 0)
    settings = TrainerSettings(3, batch_size, 1e-3, "constant", 0.0, 0.0, 0.0)
    return Trainer(built, samples, parts, settings, "cpu")


def test_a_gradient_that_overflows_ends_the_training_before_its_weights_are_kept():
    """A neuron whose current is not a number does not spike, so the loss stays finite, epoch after epoch."""
    trainer = make_trainer(surrogate={"name": "exponential", "scale": 3e38})
    with pytest.raises(
        FloatingPointError, match=r"epoch 0: layers\.0\.connection\.\w+ has non-finite values"
    ):
        list(trainer.run_epochs())
    assert not trainer.history.loss and not trainer.best_weights


def test_a_training_with_finite_weights_does_all_its_epochs():
    trainer = make_trainer()
    assert len(list(trainer.run_epochs())) == 3 and len(trainer.history.loss) == 3


OWN = """
import numpy as np
from spiky_rl.datasets._events import Events
from spiky_rl.datasets.base import Dataset, Recording

class Own(Dataset):
    shape, window, classes, agent = (2, 4, 4), (0, 100), ("a", "b"), "lif_linear_classifier"
    {declared}

    def list_recordings(self):
        return [Recording(str(i), i % 2, "train", row=i) for i in range(12)]

    def read_events(self, recording):
        draw = np.random.default_rng(recording.row).integers
        return Events(draw(0, 4, 9), draw(0, 4, 9), draw(0, 2, 9), draw(0, 100, 9))
"""


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("", ""),
        ("classes = (0, 1)", "dataset.classes: expected names, got 0"),
        ("classes = ('a', 'a')", "dataset.classes: 'a' is given twice"),
        (
            "window = (np.int64(0), np.int64(100))",
            r"dataset.window: expected whole numbers, got np.int64\(0\)",
        ),
        ("window = (-10, 100)", "dataset.window: -10 is out of range"),
        ("scale = 0.0", "dataset.scale: 0.0 is out of range"),
    ],
)
def test_a_dataset_whose_checkpoints_could_not_be_read_is_refused_before_the_training(
    tmp_path, monkeypatch, declared, message
):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text(OWN.format(declared=declared))
    request = ClassifyRequest(dataset=f"{tmp_path / 'own.py'}:Own", device="cpu", log_root=tmp_path / "logs")
    if not message:
        assert create_run(request, make_settings(request)).folder.is_dir()
        return
    with pytest.raises(RegistryError, match=message):
        create_run(request, make_settings(request))
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("classes", "side"), [(2, 5.2), (100, 30.0), (1000, 40.0)])
def test_a_confusion_matrix_of_any_number_of_classes_is_a_picture_of_bounded_size(classes, side):
    pytest.importorskip("matplotlib")
    figure = draw_confusion(np.eye(classes, dtype=int), [*map(str, range(classes))], "title")
    assert figure.get_size_inches().tolist() == pytest.approx([side + 0.3, side])


def test_a_checkpoint_that_somebody_removed_does_not_end_the_training(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    flags = {"epochs": 3, "recordings": 100}
    request = ClassifyRequest(
        dataset="digits",
        flags=flags,
        device="cpu",
        log_root=tmp_path,
        overrides=("agent.network.layers=[8]",),
    )
    run = create_run(request, make_settings(request))
    assert run.learn(lambda: False, lambda _: run.latest.unlink()) == "finished"


def test_passes_without_gradients_take_few_times_the_samples_of_a_batch(monkeypatch):
    trainer, counts = make_trainer(batch_size=1), []
    compute = training.compute_logits

    def count_samples(network, frames, *rest):
        counts.append(frames.shape[1])
        return compute(network, frames, *rest)

    monkeypatch.setattr(training, "compute_logits", count_samples)
    probabilities = trainer.predict(np.arange(12))
    trainer.measure_activity()
    assert counts == [4, 4, 4, 5] and len(probabilities) == 12
