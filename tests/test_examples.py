"""Every example runs, as a script, on a tiny dream."""

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from tiny_dream import tiny_checkpoint

from jedi_env.envs.real import make_pixels

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dream") / "checkpoint"
    tiny_checkpoint(decoder=True).save(folder)
    return str(folder)


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_dream(checkpoint, tmp_path):
    picture = tmp_path / "dream.png"
    example("dream").main(checkpoint, str(picture), steps=3)
    assert np.asarray(Image.open(picture)).shape == (4 * 256, 3 * 256, 3)


def test_ppo_in_a_dream(checkpoint, tmp_path):
    policy = tmp_path / "ppo.zip"
    example("ppo_in_a_dream").main(checkpoint, str(policy), "2048")
    assert policy.stat().st_size > 0


def test_dream_to_reality(checkpoint, tmp_path, capsys):
    policy = tmp_path / "ppo.zip"
    example("ppo_in_a_dream").main(checkpoint, str(policy), "2048")
    example("dream_to_reality").main("Breakout", checkpoint, str(policy), "1")
    assert "over 1 real games" in capsys.readouterr().out


def test_plan_in_a_dream(checkpoint):
    with_planning, without = example("plan_in_a_dream").main(checkpoint, episodes=2, horizon=4)
    assert np.isfinite([with_planning, without]).all()


def test_planning_beats_no_planning_where_the_truth_is_known():
    """On the line of eight cells a planner walks right; an agent without a plan mostly falls off the left end."""
    walk = example("bring_your_model").make_checkpoint()
    with_planning, without = example("plan_in_a_dream").main(walk, episodes=30, horizon=12)
    assert with_planning > 3
    assert with_planning > 2 * without


def test_bring_your_model():
    # From cells 2, 3 and 4 the right end (7) is reached after 5, 4 and 3 of the ten steps, and pays from then on.
    assert example("bring_your_model").main() == pytest.approx((6 + 7 + 8) / 3)
    assert "example_bring_your_model" not in sys.modules


@pytest.fixture
def racing(monkeypatch):
    pytest.importorskip("Box2D")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield "racing:PedalCarRacing-v0"
    gym.registry.pop("PedalCarRacing-v0", None)
    sys.modules.pop("racing", None)


def test_racing(racing):
    """A decision is four frames of the game under the wheel and gas or brake."""
    ours, plain = gym.make(racing), gym.make("CarRacing-v3")
    seen, expected = ours.reset(seed=3)[0], plain.reset(seed=3)[0]
    assert np.array_equal(seen, expected)
    for wheel, pedal in ((0.0, 1.0), (0.25, 0.5), (-0.5, -0.75), (0.0, 0.0)):
        seen, reward, *ends, _ = ours.step(np.array([wheel, pedal], np.float32))
        frames = [plain.step(np.array([wheel, max(pedal, 0), max(-pedal, 0)], np.float32)) for _ in range(4)]
        assert np.array_equal(seen, frames[-1][0])
        assert reward == pytest.approx(sum(frame[1] for frame in frames))
        assert ends == [False, False]
    ours.close()
    plain.close()


def test_racing_waits_two_seconds_in_the_grass(racing):
    env = gym.make(racing)
    for seed in range(2):
        env.reset(seed=seed)
        ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(26)]
        # The first decision pays for the tiles that the car stands on; from the last of them on it is a hundred frames.
        assert ends == 25 * [(False, False)] + [(False, True)]
    env.close()


def test_racing_is_a_game_of_ones_own(racing):
    env = make_pixels(racing)
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    assert env.action_space.shape == (2,)
    env.close()
