"""Catch against its rules written down a second time, read from nothing but the pictures."""

import pickle
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_dream import tiny_checkpoint
from toy_game import same

import jedi_env
from jedi_env.envs import catch
from jedi_env.envs.catch import CatchEnv
from jedi_env.envs.real import make_pixels, make_pixels_vec
from jedi_env.errors import UsageError

STAY, LEFT, RIGHT = range(3)
FALLING = 18  # steps


class Seen(NamedTuple):
    """What a picture shows: leftmost columns and the ball's topmost row."""

    ball: int
    row: int
    paddle: int


def glance(pixels: np.ndarray) -> Seen:
    """Read a picture quickly, by its red alone."""
    red = np.ascontiguousarray(pixels[..., 0])
    row, column = divmod(int((red.ravel() == catch.BALL_COLOUR[0]).argmax()), 64)
    return Seen(column, row, int((red[63] == catch.PADDLE_COLOUR[0]).argmax()))


def see(pixels: np.ndarray) -> Seen:
    """Read a picture; refuse one that holds anything but one whole ball and one whole paddle."""
    ball, paddle, background = (
        (pixels == colour).all(axis=-1) for colour in (catch.BALL_COLOUR, catch.PADDLE_COLOUR, catch.BACKGROUND)
    )
    assert (ball.sum(), paddle.sum(), background.sum()) == (5 * 5, 4 * 12, 64 * 64 - 25 - 48)
    rows, columns = np.nonzero(ball)
    assert (np.ptp(rows), np.ptp(columns)) == (4, 4)
    paddle_rows, paddle_columns = np.nonzero(paddle)
    assert (paddle_rows.min(), paddle_rows.max(), np.ptp(paddle_columns)) == (60, 63, 11)
    seen = Seen(int(columns.min()), int(rows.min()), int(paddle_columns.min()))
    assert seen == glance(pixels)
    return seen


def follow(seen: Seen) -> int:
    """Move the paddle's middle towards the ball's."""
    ahead = (seen.ball + 2) - (seen.paddle + 5)
    return STAY if abs(ahead) < 3 else RIGHT if ahead > 0 else LEFT


def play(env, policy, seed) -> float:
    pixels, _ = env.reset(seed=seed)
    score, over = 0.0, False
    while not over:
        pixels, reward, over, truncated, _ = env.step(policy(pixels))
        assert not truncated
        score += reward
    return score


def test_gymnasium_finds_nothing_to_say():
    for mode in (None, "rgb_array", "human"):
        pytest.importorskip("pygame")
        env = gym.make("JEDICatch-v0", render_mode=mode)
        check_env(env.unwrapped, skip_render_check=mode is not None)  # it would make another one
        env.close()
    check_env(gym.make("JEDICatch-v0").unwrapped)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), actions=st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_it_keeps_to_its_rules(seed, actions):
    env = CatchEnv()
    pixels, _ = env.reset(seed=seed)
    before, drift, over = see(pixels), None, False
    assert (before.row, before.paddle) == (1, 26)
    assert env.observation_space.contains(pixels)
    for action in actions:
        if over:
            break
        pixels, reward, over, truncated, info = env.step(action)
        now = see(pixels)
        assert now.paddle == min(max(before.paddle + {STAY: 0, LEFT: -4, RIGHT: 4}[action], 0), 52)
        if before.row == 55:  # it was caught
            assert now.row == 1
            drift = None
        else:
            assert now.row == before.row + 3
            if drift is not None:  # as a ball that went through the wall and is seen in a mirror there
                expected, through = abs(before.ball + drift), not 0 <= before.ball + drift <= 59
                assert now.ball == (expected if expected <= 59 else 118 - expected)
                drift = -drift if through else drift
            elif before.ball not in range(2, 58):
                pass  # it may just have turned round
            else:
                drift = now.ball - before.ball
                assert drift in (-2, -1, 0, 1, 2)
        shared = set(range(now.ball, now.ball + 5)) & set(range(now.paddle, now.paddle + 12))
        assert reward == (now.row == 55 and bool(shared))
        assert over == (now.row == 55 and not shared)
        assert (type(reward), type(over), truncated, info) == (float, bool, False, {})
        before = now


def test_whoever_follows_the_ball_never_misses_and_twenty_are_all():
    env, steps = CatchEnv(), []

    def policy(pixels):
        steps.append(1)
        return follow(glance(pixels))

    assert [play(env, policy, seed) for seed in range(100)] == [20.0] * 100
    assert len(steps) == 100 * (20 * FALLING + 19)  # and a step for each of 19 new balls to appear


def test_every_ball_can_be_caught_from_everywhere():
    """All places, drifts and paddles at once, by the rules of this test."""
    ball, drift, paddle = (axis.ravel() for axis in np.meshgrid(range(60), range(-2, 3), range(53)))
    for _ in range(FALLING):
        ahead = (ball + 2) - (paddle + 5)
        paddle = np.clip(paddle + np.where(abs(ahead) < 3, 0, 4 * np.sign(ahead)), 0, 52)
        ball = ball + drift
        drift = np.where((ball < 0) | (ball > 59), -drift, drift)
        ball = np.where(ball < 0, -ball, np.where(ball > 59, 118 - ball, ball))
    assert ((ball + 4 >= paddle) & (ball <= paddle + 11)).all()


def test_random_play_catches_little():
    rng = np.random.default_rng(0)
    env = CatchEnv()
    scores = [play(env, lambda pixels: int(rng.integers(3)), seed) for seed in range(1000)]
    assert 0.28 < np.mean(scores) < 0.42  # 0.34 with a standard error of 0.02


def test_balls_appear_everywhere_with_every_drift():
    env, starts, drifts = CatchEnv(), [], []
    for seed in range(2000):
        first = glance(env.reset(seed=seed)[0])
        starts.append(first.ball)
        if 2 <= first.ball <= 57:
            drifts.append(glance(env.step(STAY)[0]).ball - first.ball)
    assert set(starts) == set(range(60))
    counts = np.unique_counts(drifts)
    assert counts.values.tolist() == [-2, -1, 0, 1, 2]
    assert (abs(counts.counts / len(drifts) - 0.2) < 0.04).all()  # about four standard errors


def test_a_seed_and_the_actions_determine_everything():
    def record(env, seed):
        got = [env.reset(seed=seed)]
        for action in np.random.default_rng(seed).integers(3, size=100):
            got.append(env.step(action))
            if got[-1][2]:
                got.append(env.reset())
        return got

    env = CatchEnv()
    first = record(env, 3)
    assert not same(first, record(env, 4))
    assert same(first, record(env, 3))
    assert same(first, record(pickle.loads(pickle.dumps(CatchEnv())), 3))


def test_every_picture_is_in_memory_of_its_own():
    env = CatchEnv("rgb_array")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    first[:] = 0
    second = env.step(STAY)[0]
    second[:] = 0
    assert see(env.step(STAY)[0]).row == see(kept).row + 6


@pytest.mark.parametrize("action", [3, -1, 1.0, None, "1", np.array([1]), np.array([0, 1])])
def test_a_wrong_action_is_told_and_changes_nothing(action):
    env, other = CatchEnv(), CatchEnv()
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(UsageError, match=r"must be 0 \(stay\), 1 \(left\) or 2 \(right\)"):
        env.step(action)
    assert same(env.step(np.int64(RIGHT)), other.step(RIGHT))


def test_calls_at_the_wrong_time_are_told():
    env = CatchEnv(render_mode="rgb_array")
    with pytest.raises(UsageError, match="before reset"):
        env.step(STAY)
    with pytest.raises(UsageError, match="before reset"):
        env.render()
    with pytest.raises(UsageError, match="The seed is -1"):
        env.reset(seed=-1)
    play(env, lambda pixels: STAY, 0)
    with pytest.raises(UsageError, match="after the end"):
        env.step(STAY)
    with pytest.raises(UsageError, match="render_mode is 'ansi'"):
        CatchEnv(render_mode="ansi")


def test_pictures_and_keys():
    env = gym.make("JEDICatch-v0", render_mode="rgb_array")
    pixels, _ = env.reset(seed=0)
    assert (env.render()[::4, ::4] == pixels).all()
    assert env.render().shape == (256, 256, 3)
    meanings, keys = env.unwrapped.get_action_meanings(), env.unwrapped.get_keys_to_action()
    assert {keys[key]: meanings[keys[key]] for key in keys} == {LEFT: "LEFT", RIGHT: "RIGHT"}
    assert CatchEnv().render() is None


def test_a_window():
    pygame = pytest.importorskip("pygame")
    env = CatchEnv("human")
    pixels, _ = env.reset(seed=0)
    row, column = see(pixels).row, see(pixels).ball
    assert pygame.display.get_caption()[0] == "Catch"
    surface = pygame.display.get_surface()
    assert tuple(surface.get_at((4 * column, 4 * row)))[:3] == catch.BALL_COLOUR
    assert env.render() is None
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_it_is_a_real_game_wherever_one_is_asked_for():
    for name in ("JEDICatch-v0", "jedi_env:JEDICatch-v0"):
        env = make_pixels(name, render_mode="rgb_array")
        assert play(env, lambda pixels: follow(see(pixels)), 0) == 20
        assert env.render().shape == (256, 256, 3)
        env.close()
    lanes = make_pixels_vec("JEDICatch-v0", 3)
    pixels, _ = lanes.reset(seed=[5, 6, 7])
    assert (pixels[1] == CatchEnv().reset(seed=6)[0]).all()
    lanes.close()
    env = jedi_env.make_real("JEDICatch-v0", obs_type="rgb", frame_stack=2)
    observation, _ = env.reset(seed=5)
    assert (observation == np.concatenate([pixels[0]] * 2, axis=-1)).all()
    env.close()


def test_its_dream_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path))
    checkpoint = tiny_checkpoint(game="JEDICatch-v0", actions=3)
    checkpoint.save(tmp_path / "JEDICatch-v0")
    real = jedi_env.make_real("JEDICatch-v0", 2)
    dream = gym.make("JEDIDream-v0", game="JEDICatch-v0")
    assert real.single_observation_space == dream.observation_space
    real.close()
    sb3 = pytest.importorskip("jedi_env.sb3")
    both = sb3.make_real("JEDICatch-v0", 2, seed=5), sb3.make_dream(tmp_path / "JEDICatch-v0", 2)
    assert both[0].observation_space == both[1].observation_space
    both[0].reset()
    for _ in range(FALLING):
        _, rewards, dones, _ = both[0].step(np.array([STAY, STAY]))
    assert dones.any()  # the first ball of one of them falls beside the paddle
    assert rewards.tolist() == [0.0 if done else 1.0 for done in dones]
    for env in both:
        env.close()
