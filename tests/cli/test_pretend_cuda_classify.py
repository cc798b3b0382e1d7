"""Every classifier trains on a pretended CUDA device, without waiting for it in a batch but to be given samples."""

import numpy as np
import pytest

from spiky_rl.classification.split import split
from spiky_rl.classification.training import Trainer, TrainerSettings
from spiky_rl.config import registry, spec
from tests.agents import mark_slow
from tests.hosts import syncs
from tests.hosts.pretend_cuda import DEVICE, pretended
from tests.recorded import of_frames

CLASSIFIERS = [name for name in registry.list_names("agents") if name.endswith("_classifier")]
FAST = ("lif_conv_classifier", "lif_conv_eventprop_classifier", "lif_linear_classifier")
COUNT, HELD_OUT, BATCH = 10, 4, 3
SETTINGS = TrainerSettings(1, BATCH, 1e-3, "cosine", 0.1, shift=1.0, rotation=5.0)
HERE = "spiky_rl.classification."


@pytest.mark.parametrize("agent", mark_slow(CLASSIFIERS, FAST))
def test_every_classifier_trains(agent):
    labels = np.arange(COUNT, dtype=np.int64) % 10
    seen = of_frames(np.ones((COUNT, 2, 2, 34, 34), np.int64), labels)
    parted = split(seen, HELD_OUT // 2, HELD_OUT // 2, 0)
    network = spec.add_default_layers(spec.read_agent(agent)[1]["network"], [])
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            configured = registry.configure("networks", network, agent)
            built = configured.build(inputs=seen.shape, outputs=len(seen.classes))
            trainer = Trainer(built, seen, parted, SETTINGS, DEVICE)
        (epoch,) = trainer.run_epochs()
    assert np.isfinite(epoch.loss) and 0.0 <= epoch.accuracy_validation <= 1.0
    assert (
        (cuda.cupy.launches["spiky_forward"] + cuda.cupy.launches["spiky_layer_forward"])
        > 0
        < (cuda.cupy.launches["spiky_backward"] + cuda.cupy.launches["spiky_layer_backward"])
    )
    here = {name for name in cuda.pretence.met if name.startswith(HERE)}
    assert here == {name for name in syncs.OURS if name.startswith(HERE)}, "what is listed is met"
