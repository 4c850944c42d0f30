"""ALE's RAM beside real play: the second emulator plays the same game, and places are where they are seen."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest

from jedi_env.envs.real import make_pixels
from jedi_env.errors import RunError, UsageError
from jedi_env.games import GAMES
from trainers.ram import PLACES, Twin, numbers

RED = (200, 72, 72)  # Breakout's paddle and ball


def played(game, seed, steps):
    rng = np.random.default_rng(seed)
    with closing(make_pixels(game)) as env:
        pixels, info = env.reset(seed=seed)
        seen, actions, rewards, noops = [pixels], [], [], info["frame_number"]
        for _ in range(steps):
            actions.append(int(rng.integers(env.action_space.n)))
            pixels, reward, terminated, truncated, _ = env.step(actions[-1])
            seen.append(pixels)
            rewards.append(float(reward))
            if terminated or truncated:
                break
    return noops, actions, rewards, np.stack(seen)


@pytest.fixture(scope="module")
def breakout():
    return played("Breakout", 3, 400)


def test_every_place_is_of_a_game_of_the_benchmark_and_in_the_ram():
    assert set(PLACES) <= set(GAMES)
    for places in PLACES.values():
        for place in places.values():
            assert 0 <= place.byte < 128
            assert place.shown is None or 0 <= place.shown < 128


def test_the_paddle_is_seen_where_the_ram_says(breakout):
    with closing(Twin("Breakout")) as twin:
        ram = twin.play(*breakout)
    pixels = breakout[3]
    assert ram.shape == (len(pixels), 128)
    seen = []
    for image in pixels:
        row = (np.abs(image[57:59, 4:60].astype(int) - RED).max(axis=-1) < 60).any(axis=0)
        seen.append(np.flatnonzero(row).mean() if row.any() else np.nan)
    there = np.isfinite(seen)
    assert there.mean() > 0.8
    read = numbers("Breakout", ram)[:, list(PLACES["Breakout"]).index("player_x")]
    slope, _ = np.polyfit(np.array(seen)[there], read[there], 1)
    assert np.corrcoef(np.array(seen)[there], read[there])[0, 1] > 0.98
    assert slope == pytest.approx(160 / 64, rel=0.1)  # one unit is a pixel of 160


def test_a_ball_that_is_not_there_has_no_place(breakout):
    with closing(Twin("Breakout")) as twin:
        ram = twin.play(*breakout)
    read = numbers("Breakout", ram)
    gone = (ram[:, 101] == 0) | (ram[:, 101] > 185)
    assert 0 < gone.mean() < 1
    for name, column in zip(PLACES["Breakout"], read.T, strict=True):
        assert np.array_equal(np.isnan(column), gone if name.startswith("ball") else np.zeros(len(gone), bool))
        there = ~np.isnan(column)
        assert np.array_equal(column[there], ram[there, PLACES["Breakout"][name].byte])


def test_a_lost_ball_has_a_place_as_long_as_any_of_it_is_drawn():
    rng, below_bricks, paddle = np.random.default_rng(0), 93, slice(189, 193)
    drawn = lost = 0
    with closing(gymnasium.make("ale_py:ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)) as env:
        env.reset(seed=0)
        ale = env.unwrapped.ale
        for frame in range(4000):
            if frame % 4 == 0:
                action = rng.choice(ale.getMinimalActionSet())
            ale.act(action)
            if ale.game_over():
                ale.reset_game()
            ram = ale.getRAM()
            x, y, _ = numbers("Breakout", ram)
            red = (np.abs(ale.getScreenRGB()[:, 8:152].astype(int) - RED) < 5).all(axis=-1)  # between the walls
            red[paddle] = False
            rows = below_bricks + np.flatnonzero(red[below_bricks:].any(axis=1))
            if np.isnan(y):
                assert not len(rows) or ram[101] == 186  # the last line of it, in some frames
                lost += ram[101] > 0
            elif y > 100 and y != 180 and 55 < x < 201:  # else the paddle's rows or a wall may hide all of it
                top = int(y) + 9
                assert len(rows)
                assert top <= rows.min() <= rows.max() < top + 4
                drawn += 1
    assert drawn > 500
    assert lost > 100


def test_another_game_than_the_recorded_one_is_told(breakout):
    noops, actions, rewards, pixels = breakout
    with closing(Twin("Breakout")) as twin:
        wrong = pixels.copy()
        wrong[17, 30:40, 30:40] = 99  # compared at every sixteenth step
        with pytest.raises(RunError, match="plays another game"):
            twin.play(noops, actions, rewards, wrong)
        with pytest.raises(RunError, match="plays another game"):
            twin.play(noops, actions, [reward + 1 for reward in rewards], pixels)
        with pytest.raises(RunError, match="plays another game"):
            twin.play(noops + 1, actions, rewards, pixels)
        assert np.array_equal(twin.play(*breakout), twin.play(*breakout))


def test_pong_with_another_frame_skip_is_followed():
    from jedi_env.envs.atari import AtariGame, AtariProtocol

    with closing(AtariGame("Pong", AtariProtocol(frame_skip=3))) as env:
        pixels, info = env.reset(seed=1)
        seen, rewards = [pixels], []
        for action in [2, 3, 5, 0] * 10:
            pixels, reward, *_ = env.step(action)
            seen.append(pixels)
            rewards.append(float(reward))
    with closing(Twin("Pong", 3)) as twin:
        ram = twin.play(info["frame_number"], [2, 3, 5, 0] * 10, rewards, np.stack(seen))
    assert len(np.unique(ram[:, 51])) > 5  # the player's paddle moved


def test_a_game_without_an_emulator_is_refused():
    with pytest.raises(UsageError, match="needs ale-py"):
        Twin("Tetris2000")
