"""Tasks of Gymnasium with scripted episodes, registered on import."""

import random
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SCRIPTS = f"{__name__}:Scripted/"
"""What the names of these tasks begin with."""


class Script(gymnasium.Env):
    """Step n has reward n and observation n, after a start at a random tenth. ``ends`` at that step, if the limit is not before."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space: Any = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space: Any = spaces.Box(np.float32([-0.4, 1.0]), np.float32([0.4, 5.0]))

    def __init__(self, ends: int = 0, render_mode: str | None = None) -> None:
        self.ends, self.render_mode = ends, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.steps = float(self.np_random.random()) / 10.0, 0
        self.observed = np.array([self.start])
        return self.observed, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.observed[0] = self.steps + self.start  # into the same array, as some tasks do
        return self.observed, float(self.steps), self.steps == self.ends, False, {"action": action}

    def render(self):
        return np.full((8, 12, 3), self.steps, np.uint8)


class Reused(Script):
    """Observations of resets, too, are in the same array as all others."""

    def __init__(self, ends: int = 0, render_mode: str | None = None) -> None:
        super().__init__(ends, render_mode)
        self.place = np.zeros(1)

    def reset(self, *, seed=None, options=None):
        observed, infos = super().reset(seed=seed)
        self.place[:] = observed
        self.observed = self.place
        return self.observed, infos


class Global(Script):
    """Rewards from the generators of `random` and NumPy, which the task itself does not seed."""

    def step(self, action):
        observed, _, *others = super().step(action)
        return observed, random.random() + np.random.random(), *others


class Turn(Script):
    """Discrete actions from 3 on; the reward is the action."""

    action_space = spaces.Discrete(4, start=3)

    def step(self, action):
        observed, _, ended, cut, infos = super().step(action)
        return observed, float(action), ended, cut, infos


class OneSided(Script):
    """Actions with a lower bound alone, an upper one alone, none, and two whose middle is rounded."""

    action_space = spaces.Box(
        np.float32([0.0, -np.inf, -np.inf, 0.1]), np.float32([np.inf, 0.5, np.inf, 0.7])
    )


class Fine(Script):
    """Actions in double precision, whose bounds lie between two numbers of single precision."""

    action_space = spaces.Box(np.array([-0.1, -0.3, -np.inf]), np.array([0.1, 0.7, 0.1]), dtype=np.float64)


class Whole(Script):
    """Actions of whole numbers; the largest ones are no number of single precision."""

    largest = np.iinfo(np.int64).max
    action_space = spaces.Box(np.array([0, -3, -largest]), np.array([5, 4, largest]), dtype=np.int64)


class Picture(Script):
    """Images of 20 x 16 pixels and 3 colours."""

    observation_space = spaces.Box(0, 255, (20, 16, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        return self.draw(), *super().step(action)[1:]

    def draw(self):
        return np.arange(960).astype(np.uint8).reshape(20, 16, 3)


class Shaped(Script):
    """Observations of any ``shape``: 0, 1, 2, ... in C order, and ten times the step."""

    def __init__(self, shape: tuple[int, ...], render_mode: str | None = None) -> None:
        super().__init__(0, render_mode)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        _, *others = super().step(action)
        return self.draw(), *others

    def draw(self):
        shape = self.observation_space.shape
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10 * np.float32(self.steps)


class Groups(Script):
    """Dict observations: the step of an episode as a number in a map, as a choice and as a tuple."""

    observation_space = spaces.Dict(
        {
            "map": spaces.Box(0, 9, (2, 1)),
            "choice": spaces.Discrete(6),
            "both": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-9.0, 9.0, dtype=np.float64))),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        _, *others = super().step(action)
        return self.draw(), *others

    def draw(self):
        bits = np.array([self.steps & 1, self.steps >> 1 & 1], np.int8)
        amount = np.float32([[self.steps], [self.start]])
        return {"map": amount, "choice": self.steps, "both": (bits, np.array([-self.steps], np.float64))}


class Series(Script):
    """Sequence observations, which have no fixed length."""

    observation_space = spaces.Sequence(spaces.Box(0, 1, (1,)))


class Mission(Groups):
    """Dict observations with a graph in a part of a part."""

    pair = spaces.Tuple((spaces.Discrete(2), spaces.Graph(spaces.Box(0, 1, (1,)), None)))
    observation_space = spaces.Dict({**Groups.observation_space.spaces, "mission": pair})


class Choices(Script):
    """Actions of two choices, the second from 5 on; the reward has both as digits."""

    action_space = spaces.MultiDiscrete([2, 3], start=[0, 5])

    def step(self, action):
        observed, _, *others = super().step(action)
        first, second = action.ravel()
        return observed, float(10 * first + second), *others


class Switches(Choices):
    """Actions of 2 x 1 switches."""

    action_space = spaces.MultiBinary([2, 1])


class Words(Script):
    """Actions of text."""

    action_space = spaces.Text(3)


class Broken(Script):
    """Observations that are not finite at ``step``."""

    def __init__(self, step: int) -> None:
        super().__init__(ends=3)
        self.broken_step = step

    def reset(self, *, seed=None, options=None):
        observed, infos = super().reset(seed=seed)
        return observed if self.broken_step else observed * np.nan, infos

    def step(self, action):
        observed, *others = super().step(action)
        return observed * np.nan if self.steps == self.broken_step else observed, *others


class Lenient(Script):
    """A class that takes any keyword argument."""

    def __init__(self, render_mode: str | None = None, **_settings: Any) -> None:
        super().__init__(0, render_mode)


class Filmed(Script):
    """A MuJoCo robot with a camera that follows it, whose class takes no name of a camera."""

    model = SimpleNamespace(ncam=1, camera=lambda _: SimpleNamespace(name="track"))


for name, cls, limit in (
    ("Script-v0", Script, 5),
    ("Script-v1", Script, None),
    ("Reused-v0", Reused, 5),
    ("Global-v0", Global, 5),
    ("Turn-v0", Turn, 5),
    ("OneSided-v0", OneSided, 5),
    ("Fine-v0", Fine, 5),
    ("Whole-v0", Whole, 5),
    ("Picture-v0", Picture, 5),
    ("Shaped-v0", Shaped, 3),
    ("Groups-v0", Groups, 5),
    ("Series-v0", Series, 5),
    ("Mission-v0", Mission, 5),
    ("Choices-v0", Choices, 5),
    ("Switches-v0", Switches, 5),
    ("Words-v0", Words, 5),
    ("Broken-v0", Broken, 5),
    ("Lenient-v0", Lenient, 5),
    ("Filmed-v0", Filmed, 5),
):
    gymnasium.register(f"Scripted/{name}", entry_point=cls, max_episode_steps=limit)
