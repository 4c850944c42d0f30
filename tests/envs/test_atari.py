"""Atari games, against Gymnasium's AtariPreprocessing, ALE's vector env and SyncVectorEnv."""

import itertools
import sys
from dataclasses import asdict
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AtariPreprocessing
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from toy_game import same

from jedi_env.envs import atari
from jedi_env.envs.atari import AtariGame, AtariProtocol
from jedi_env.envs.real import make_pixels, make_pixels_vec
from jedi_env.envs.window import RENDER_SCALE
from jedi_env.errors import UsageError
from jedi_env.games import GAMES

MODES = tuple(AutoresetMode)
SHORT = 48  # emulator frames after which the games of some tests are truncated: 12 steps


def play(env: gymnasium.Env, steps: int, seed: int = 0) -> list[Any]:
    """Random play from a seeded reset, with resets as needed: everything the environment returned."""
    rng = np.random.default_rng(seed)
    said: list[Any] = [env.reset(seed=seed)]
    ended = False
    for _ in range(steps):
        said.append(env.reset() if ended else env.step(int(rng.integers(env.action_space.n))))
        ended = not ended and (said[-1][2] or said[-1][3])
    return said


# The pixels


@pytest.mark.parametrize(("game", "steps"), [("Breakout", 220), ("Pong", 60), ("MsPacman", 80)])
def test_frames_rewards_and_ends_are_those_of_gymnasiums_preprocessing(game, steps):
    raw = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
    theirs = AtariPreprocessing(raw, noop_max=0, screen_size=64, grayscale_obs=False)
    ours = make_pixels(game, noop_max=0)
    assert ours.action_space == theirs.action_space
    assert ours.unwrapped.get_action_meanings() == raw.unwrapped.get_action_meanings()
    rng = np.random.default_rng(1)
    expected, _ = theirs.reset(seed=1)
    pixels, info = ours.reset(seed=1)
    rewards, ends = 0.0, 0
    for _ in range(steps):
        assert (pixels == expected).all()
        action = int(rng.integers(ours.action_space.n))
        expected, reward, terminated, truncated, their_info = theirs.step(action)
        pixels, our_reward, our_terminated, our_truncated, info = ours.step(action)
        assert (our_reward, our_terminated, our_truncated) == (reward, terminated, truncated)
        assert info["lives"] == their_info["lives"]
        assert info["game_over"] == terminated
        rewards += reward
        if terminated:
            assert (pixels == expected).all()
            ends += 1
            (expected, _), (pixels, _) = theirs.reset(), ours.reset()
    assert rewards or game == "Pong"
    assert ends or game != "Breakout"


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_lanes_are_those_of_ales_own_vector_env(mode):
    theirs = AtariVectorEnv(
        "breakout",
        2,
        img_height=64,
        img_width=64,
        grayscale=False,
        stack_num=1,
        noop_max=31,
        max_num_frames_per_episode=SHORT,
        reward_clipping=False,
        use_fire_reset=False,
        autoreset_mode=mode,
    )
    ours = make_pixels_vec("Breakout", 2, max_frames=SHORT, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    expected, their_info = theirs.reset(seed=11)
    pixels, info = ours.reset(seed=11)
    ends = 0
    for _ in range(30):
        assert (pixels == expected[:, 0]).all()
        assert (info["episode_frame_number"] == their_info["episode_frame_number"]).all()
        actions = rng.integers(0, 4, 2)
        expected, rewards, terminated, truncated, their_info = theirs.step(actions)
        pixels, our_rewards, our_terminated, our_truncated, info = ours.step(actions)
        assert (our_rewards == rewards).all()
        assert (our_terminated == terminated).all()
        assert (our_truncated == truncated).all()
        for lane in np.flatnonzero(truncated):
            ends += 1
            if mode is AutoresetMode.SAME_STEP:
                assert (info["final_obs"][lane] == their_info["final_obs"][lane, 0]).all()
    assert ends >= 4


def test_a_game_starts_with_0_to_noop_max_noops():
    env = make_pixels("Freeway", noop_max=3)
    seen = {env.reset(seed=0)[1]["episode_frame_number"]} | {env.reset()[1]["episode_frame_number"] for _ in range(40)}
    assert seen == {0, 1, 2, 3}


def test_sticky_actions_repeat_the_last_one():
    always, never = make_pixels("Pong", sticky=1.0, noop_max=0), make_pixels("Pong", noop_max=0)
    for env in (always, never):
        env.reset(seed=0)
    stuck = [always.step(action)[0] for action in [2] * 12]
    free = [never.step(0)[0] for _ in range(12)]
    assert (np.array(stuck) == np.array(free)).all()  # the emulator started with a no-op, and never lets go of it


@pytest.mark.parametrize("game", GAMES)
def test_every_game_has_its_rom(game):
    emulator = atari._emulator(game, AtariProtocol())
    assert next(action.name for action in emulator.get_action_set()) == "NOOP"


# Seeds


def test_same_seed_and_actions_give_the_same_play_whatever_happened_before():
    env, other = make_pixels("Breakout", max_frames=SHORT), make_pixels("Breakout", max_frames=SHORT)
    first = play(env, 60, seed=5)
    assert same(first, play(other, 60, seed=5))
    assert same(first, play(env, 60, seed=5))
    starts = {play(env, 0, seed=seed)[0][1]["episode_frame_number"] for seed in range(4)}
    assert len(starts) > 1


def test_lane_i_has_seed_plus_i_and_a_list_or_an_array_gives_each_its_own():
    vec, single = make_pixels_vec("Breakout", 2), make_pixels("Breakout")
    for seeds, given_as in (
        ([7, 8], 7),
        ([8, 9], np.int64(8)),
        ([2, 2**40], [2, 2**40]),
        ([4, 3], np.array([4, 3])),
    ):
        _, info = vec.reset(seed=given_as)
        wanted = [single.reset(seed=seed)[1]["episode_frame_number"] for seed in seeds]
        assert info["episode_frame_number"].tolist() == wanted


def test_an_interrupted_step_does_not_shift_later_ones():
    env, other = make_pixels("Breakout"), make_pixels("Breakout")
    env.reset(seed=3)
    env.send(1)
    assert same(play(env, 8, seed=4), play(other, 8, seed=4))


# Life loss


@pytest.mark.parametrize(("game", "start"), [("Breakout", 5), ("BankHeist", 4)])
def test_a_lost_life_ends_the_episode_and_the_game_goes_on(game, start):
    by_life, whole = make_pixels(game, life_loss=True), make_pixels(game)
    pixels, info = by_life.reset(seed=2)
    assert info["lives"] == start
    assert (pixels == whole.reset(seed=2)[0]).all()
    rng = np.random.default_rng(2)
    lives = []
    for _ in range(1500):
        action = int(rng.integers(by_life.action_space.n))
        expected = whole.step(action)
        got = by_life.step(action)
        assert (got[0] == expected[0]).all()
        assert got[1] == expected[1]
        assert got[4]["game_over"] == expected[2]
        # BankHeist shows no lives for about 90 steps before it is over: the end of the game is the end, not that.
        assert got[2] == (0 < got[4]["lives"] < info["lives"] or expected[2])
        info = got[4]
        if got[2]:
            lives.append(info["lives"])
            if info["game_over"]:
                break
            with pytest.raises(UsageError, match="reset"):
                by_life.step(0)
            pixels, reset_info = by_life.reset()
            assert (pixels == got[0]).all()
            assert reset_info == info
    assert lives == list(range(start))[::-1]
    assert by_life.reset()[1]["lives"] == start


def test_a_seeded_reset_after_a_lost_life_starts_a_new_game():
    env = make_pixels("Breakout", life_loss=True)
    env.reset(seed=2)
    lost = False
    while not lost:
        lost = env.step(1)[2]
    pixels, info = env.reset(seed=2)
    assert info["lives"] == 5
    assert (pixels == env.reset(seed=2)[0]).all()


def test_a_life_lost_in_the_very_step_that_truncates_is_a_truncation():
    env = make_pixels("Breakout", life_loss=True)
    env.reset(seed=2)
    steps = 1 + next(t for t in itertools.count() if env.step(1)[2])
    env = make_pixels("Breakout", life_loss=True, max_frames=4 * steps)
    env.reset(seed=2)
    for _ in range(steps):
        _, _, terminated, truncated, info = env.step(1)
    assert (terminated, truncated, info["game_over"], info["lives"]) == (False, True, True, 4)
    assert env.reset()[1]["lives"] == 5


# Vector environments


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("life_loss", [False, True])
def test_modes_are_those_of_sync_vector_env(mode, life_loss):
    protocol = AtariProtocol(life_loss=life_loss, max_frames=400 if life_loss else SHORT)
    theirs = SyncVectorEnv([lambda: AtariGame("Breakout", protocol)] * 2, autoreset_mode=mode)
    ours = make_pixels_vec("Breakout", 2, life_loss=life_loss, max_frames=protocol.max_frames, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert same(ours.reset(seed=3), theirs.reset(seed=3))
    rng = np.random.default_rng(0)
    ends, continued = 0, 0
    for _ in range(110 if life_loss else 40):
        actions = rng.integers(0, 4, 2)
        got, expected = ours.step(actions), theirs.step(actions)
        assert same(got, expected)
        ended = got[2] | got[3]
        ends += ended.sum()
        info = got[4]["final_info"] if mode is AutoresetMode.SAME_STEP and ended.any() else got[4]
        continued += int((ended & ~info["game_over"]).sum())
        if mode is AutoresetMode.SAME_STEP and ended.any():
            assert info["_lives"].tolist() == got[4]["_final_info"].tolist() == ended.tolist()
        if mode is AutoresetMode.DISABLED and ended.any():
            with pytest.raises(UsageError, match="reset_mask"):
                ours.step(actions)
            options = {"reset_mask": ended}
            assert same(ours.reset(options=options), theirs.reset(options={"reset_mask": ended.copy()}))
            assert options["reset_mask"] is ended
    assert ends >= 4
    assert (continued > 0) == life_loss


def test_a_masked_reset_leaves_the_other_lanes_alone():
    env = make_pixels_vec("Breakout", 3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    for _ in range(5):
        before = env.step(np.array([1, 2, 3]))
    mask = np.array([False, True, False])
    options = {"reset_mask": mask}
    pixels, info = env.reset(seed=[1, 2, 3], options=options)
    assert (pixels[[0, 2]] == before[0][[0, 2]]).all()
    assert (pixels[1] == make_pixels("Breakout").reset(seed=2)[0]).all()
    assert info["_lives"].tolist() == mask.tolist()
    assert list(options) == ["reset_mask"]
    assert mask.tolist() == [False, True, False]


def test_statistics_see_every_episode():
    env = RecordEpisodeStatistics(make_pixels_vec("Breakout", 2, max_frames=SHORT))
    env.reset(seed=0)
    lengths = []
    for _ in range(36):
        info = env.step(np.zeros(2, dtype=np.int64))[4]
        lengths += info["episode"]["l"][info["_episode"]].tolist() if "episode" in info else []
    assert lengths == [12] * 6


def test_metadata_belongs_to_each_instance():
    before = dict(VectorEnv.metadata)
    envs = [make_pixels_vec("Pong", 1, autoreset_mode=mode) for mode in MODES]
    assert [env.metadata["autoreset_mode"] for env in envs] == list(MODES)
    assert VectorEnv.metadata == before
    assert "autoreset_mode" not in AtariGame.metadata
    assert make_pixels_vec("Pong", 1, autoreset_mode="NextStep").metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_render_shows_the_pixels_enlarged():
    vec = make_pixels_vec("Breakout", 2, render_mode="rgb_array")
    pixels, _ = vec.reset(seed=0)
    lanes, pixels[...] = pixels.copy(), 0  # the caller's to spoil
    frames = vec.render()
    assert isinstance(frames, tuple)
    for frame, lane in zip(frames, lanes, strict=True):
        assert frame.dtype == np.uint8
        assert (frame == np.kron(lane, np.ones((RENDER_SCALE, RENDER_SCALE, 1), np.uint8))).all()
    single = make_pixels("Breakout", render_mode="rgb_array")
    pixels, _ = single.reset(seed=0)
    shown, pixels[...] = pixels.copy(), 0
    assert (single.render()[::RENDER_SCALE, ::RENDER_SCALE] == shown).all()


def test_closing_twice_is_allowed_and_stepping_after_it_is_not():
    for env, actions in ((make_pixels("Pong"), 0), (make_pixels_vec("Pong", 1), np.zeros(1, dtype=np.int64))):
        env.reset(seed=0)
        env.close()
        env.close()
        with pytest.raises(UsageError, match="closed"):
            env.step(actions)


def test_the_protocol_is_plain_data():
    env = make_pixels_vec("Breakout", 1, life_loss=True, sticky=0.25)
    assert asdict(env.protocol) == {
        "frame_skip": 4,
        "noop_max": 30,
        "sticky": 0.25,
        "life_loss": True,
        "max_frames": 108000,
        "full_action_space": False,
        "size": 64,
    }
    assert AtariGame("Breakout", AtariProtocol(full_action_space=True)).action_space == Discrete(18)
    assert AtariGame("Breakout", AtariProtocol(size=40)).reset(seed=0)[0].shape == (40, 40, 3)


# Refusals


WRONG_CALLS = (
    (lambda env: env.step(np.array([0, 4])), "from 0 to 3"),
    (lambda env: env.step(np.array([0, -1])), "from 0 to 3"),
    (lambda env: env.step(np.array([0.0, 1.0])), "integer array"),
    (lambda env: env.step(np.array([0])), "shape"),
    (lambda env: env.step(1), "shape"),
    (lambda env: env.reset(seed=-1), "seed"),
    (lambda env: env.reset(seed=[1]), "1 seeds for 2 lanes"),
    (lambda env: env.reset(seed=[1, 2.5]), "2.5"),
    (lambda env: env.reset(options={"reset_mask": [True, False]}), "bool array"),
    (lambda env: env.reset(options={"reset_mask": np.array([1, 0])}), "bool array"),
    (lambda env: env.reset(options={"reset_mask": np.array([True])}), "bool array"),
    (lambda env: env.reset(options={"reset_mask": np.zeros(2, bool)}), "no lane"),
)


def test_a_refused_call_changes_nothing():
    env, twin = make_pixels_vec("Breakout", 2), make_pixels_vec("Breakout", 2)
    for one in (env, twin):
        one.reset(seed=0)
    for call, message in WRONG_CALLS:
        with pytest.raises(UsageError, match=message):
            call(env)
        assert same(env.step(np.array([1, 2])), twin.step(np.array([1, 2])))


def test_order_is_enforced():
    vec, single = make_pixels_vec("Breakout", 2), make_pixels("Breakout", max_frames=4, render_mode="rgb_array")
    with pytest.raises(UsageError, match="call reset"):
        vec.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(UsageError, match="first reset"):
        vec.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(UsageError, match="call reset"):
        single.step(0)
    with pytest.raises(UsageError, match="call reset"):
        single.render()
    single.reset(seed=0)
    assert single.step(0)[3] is True
    with pytest.raises(UsageError, match="end of the episode"):
        single.step(0)


def test_without_ale_py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UsageError, match=r"pip install 'jedi-env\[atari\]'"):
        make_pixels("Breakout")


# The frame skip


def test_a_drawn_frame_skip_is_uniform_and_follows_from_the_seed():
    env = make_pixels("Breakout", frame_skip=(2, 6))
    frames = {}
    for seed in (5, 5, 6):
        counts = [env.reset(seed=seed)[1]["episode_frame_number"]]
        while len(counts) < 400:
            *_, terminated, truncated, info = env.step(1)
            counts.append(info["episode_frame_number"])
            if terminated or truncated:
                break
        skips = np.diff(counts[:-1]).tolist()  # the last one may have been cut short
        assert frames.setdefault(seed, skips) == skips
    assert frames[5] != frames[6]
    drawn = [skip for skips in frames.values() for skip in skips]
    assert len(drawn) > 150
    shares = np.bincount(drawn, minlength=8) / len(drawn)
    assert shares[[0, 1, 7]].sum() == 0
    assert shares[2:7] == pytest.approx(0.2, abs=0.09)


def test_a_drawn_frame_skip_shows_the_last_two_frames_and_adds_up_the_rewards():
    """Against the emulator frame by frame, and OpenCV's area interpolation."""
    env, frame_by_frame = make_pixels("Breakout", frame_skip=(2, 6)), AtariGame("Breakout", AtariProtocol(1, size=None))
    _, info = env.reset(seed=1)
    frame_by_frame.reset(seed=1)
    before, rewards = info["episode_frame_number"], 0.0
    for step in range(120):
        action = 1 if step % 4 == 0 else int(step % 3) + 1
        pixels, reward, *_, info = env.step(action)
        number, before = info["episode_frame_number"] - before, info["episode_frame_number"]
        played = [frame_by_frame.step(action) for _ in range(number)]
        expected = cv2.resize(np.maximum(played[-1][0], played[-2][0]), (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(pixels.astype(int) - expected).max() <= 1
        assert reward == sum(one[1] for one in played)
        rewards += reward
    assert rewards > 0


def test_the_same_least_and_most_is_a_fixed_frame_skip():
    env, other = make_pixels("Pong", frame_skip=(4, 4)), make_pixels("Pong", frame_skip=np.int64(4))
    assert env.protocol == other.protocol == AtariProtocol()
    assert AtariProtocol((np.int64(2), np.int64(6))).frame_skips == (2, 6)
    assert same(play(env, 20, seed=2), play(other, 20, seed=2))


def test_lanes_draw_their_frame_skips_each_from_its_seed():
    vec, single = make_pixels_vec("Breakout", 2, frame_skip=(2, 6)), make_pixels("Breakout", frame_skip=(2, 6))
    vec.reset(seed=7)
    lanes = np.array([vec.step(np.ones(2, dtype=np.int64))[4]["episode_frame_number"] for _ in range(20)]).T.tolist()
    for lane, seed in enumerate((7, 8)):
        single.reset(seed=seed)
        assert lanes[lane] == [single.step(1)[4]["episode_frame_number"] for _ in range(20)]
    assert lanes[0] != lanes[1]


@pytest.mark.parametrize("skip", [0, (0, 4), (5, 4)])
def test_a_frame_skip_must_be_a_number_or_two_in_order(skip):
    with pytest.raises(UsageError, match="frame_skip is"):
        make_pixels("Breakout", frame_skip=skip)
    with pytest.raises(UsageError, match="make it with make_pixels"):
        AtariGame("Breakout", AtariProtocol((2, 6)))
