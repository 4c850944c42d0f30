"""Trainers that nobody here wrote learn in a dream, by the very code that docs/trainers.md shows.

The dream is a learned one, of the board of test_toy_world.py, so that it is known what learning must reach. Every
trainer is skipped where it is not installed; CleanRL is a file, not a package: put the path of its ppo.py into
CLEANRL_PPO.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_toy_world import K, draw, play, train

from jedi_env.checkpoint import Checkpoint
from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.types import Context

PAGE = (Path(__file__).parents[1] / "docs" / "trainers.md").read_text(encoding="utf-8")
HORIZON = 20
STEPS = 32_768
# A random policy gets about 1 and no constant action more than 4, see below; a square can be won every third step.
LEARNED = 4.5

pytestmark = pytest.mark.filterwarnings("ignore")  # the warnings of other people's programs are theirs


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def program(name, folder):
    """The functions of the page's program whose docstring says ``name``."""
    (source,) = [block for block in blocks("python") if block.startswith('"""') and name in block.splitlines()[0]]
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return runpy.run_path(str(path))


@pytest.fixture(scope="module")
def dream(tmp_path_factory):
    model = train(sees_next=False, updates=200)
    states, actions, _, _ = play(64, K - 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        contexts = Context(model.encode(draw(states)), actions)
    folder = tmp_path_factory.mktemp("dream") / "checkpoint"
    Checkpoint(model, contexts, game=None, horizon=HORIZON, protocol={}, provenance={}, metrics={}).save(folder)
    return str(folder)


@pytest.fixture
def truth(monkeypatch):
    """The return and length of every episode that really ended, counted where the dream steps."""
    ended, running = [], {}
    step = DreamVectorEnv.step

    def counted(self, actions):
        result = step(self, actions)
        _, rewards, terminated, truncated, _ = result
        for lane in range(self.num_envs):
            total, length = running.get(lane, (0.0, 0))
            running[lane] = total + float(rewards[lane]), length + 1
            if terminated[lane] or truncated[lane]:
                ended.append(running.pop(lane))
        return result

    monkeypatch.setattr(DreamVectorEnv, "step", counted)
    return ended


def mean_return(episodes):
    return sum(total for total, _ in episodes) / len(episodes)


def assert_learned(truth):
    assert mean_return(truth[:100]) < 2
    assert mean_return(truth[-100:]) > LEARNED


def test_every_program_of_the_page_is_python():
    assert len(blocks("python")) >= 2
    for source in blocks("python"):
        compile(source, "docs/trainers.md", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("action", range(3))
def test_no_constant_action_is_enough(dream, truth, action):
    env = DreamVectorEnv(64, checkpoint=dream)
    env.reset(seed=0)
    for _ in range(100):
        env.step([action] * 64)
    assert mean_return(truth) < LEARNED - 0.5


@pytest.mark.slow
def test_torchrl_learns(dream, truth, tmp_path):
    pytest.importorskip("torchrl")
    torch.manual_seed(0)
    told = program("torchrl_ppo.py", tmp_path)["main"](dream, STEPS)
    assert sorted(told) == sorted(truth)
    assert_learned(truth)


@pytest.mark.slow
def test_tianshou_learns(dream, truth, tmp_path, monkeypatch):
    data = pytest.importorskip("tianshou.data")
    theirs, update = [], data.CollectStats.update_at_episode_done

    def noted(self, episode_batch, episode_return, *arguments, **options):
        theirs.append(float(episode_return))
        return update(self, episode_batch, episode_return, *arguments, **options)

    monkeypatch.setattr(data.CollectStats, "update_at_episode_done", noted)
    torch.manual_seed(0)
    told = program("tianshou_ppo.py", tmp_path)["main"](dream, STEPS)
    assert told == truth[-100:]
    assert theirs == [total for total, _ in truth]
    assert_learned(truth)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [1, 2], ids=["as little as possible", "and truncation is no end"])
def test_cleanrl_learns(dream, truth, tmp_path, monkeypatch, capsys, changes):
    original = os.environ.get("CLEANRL_PPO")
    if not original:
        pytest.skip("CLEANRL_PPO does not name CleanRL's ppo.py")
    for name in ("tyro", "tensorboard"):
        pytest.importorskip(name)
    script = tmp_path / "ppo.py"
    shutil.copy(original, script)
    for diff in blocks("diff")[:changes]:
        subprocess.run(["patch", str(script)], input=diff, text=True, check=True, capture_output=True)
    arguments = "--env-id jedi_env:JEDIDream-v0 --num-envs 16 --num-steps 32 --learning-rate 2e-3"
    monkeypatch.setattr(
        sys, "argv", [str(script), *arguments.split(), "--checkpoint", dream, "--total-timesteps", str(STEPS)]
    )
    monkeypatch.chdir(tmp_path)  # it writes its curves into runs/
    runpy.run_path(str(script), run_name="__main__")
    told = re.findall(r"episodic_return=(\S+)", capsys.readouterr().out)
    assert [float(total) for total in told] == [total for total, _ in truth]
    assert_learned(truth)
