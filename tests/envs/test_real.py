"""The real game, against Gymnasium's AtariPreprocessing, ALE's vector env, SyncVectorEnv and slow definitions."""

import itertools
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import ale_py
import cv2
import gymnasium
import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AtariPreprocessing
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from jedi_env.envs import real
from jedi_env.envs.encode import EncodedVectorEnv, latent_frames, pixel_frames
from jedi_env.envs.real import AreaResize, AtariGame, AtariProtocol, make_pixels, make_pixels_vec, make_real
from jedi_env.errors import UsageError
from jedi_env.games import GAMES

MODES = tuple(AutoresetMode)
SHORT = 48  # emulator frames after which the games of some tests are truncated: 12 steps


def same(a: Any, b: Any) -> bool:
    """Equal all the way down, dtypes included."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        if not isinstance(b, np.ndarray) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return all(map(same, a, b)) if a.dtype == object else bool((a == b).all())
    return type(a) is type(b) and a == b


class BlockMeans(torch.nn.Module):
    """A fake world model whose frames are easy to check: means of 8x8 blocks in [-3, 3]; it counts what it encodes."""

    frame_shape = (3, 8, 8)
    bound = 3.0
    context_length = 4

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.encoded += len(pixels)
        blocks = pixels.unflatten(-2, (8, 8)).unflatten(-4, (8, 8)).double().mean(dim=(-4, -2))
        return (blocks / 255 * 6 - 3).movedim(-1, -3)


def fake_checkpoint() -> Any:
    return SimpleNamespace(world_model=BlockMeans())


def block_means(pixels: np.ndarray) -> np.ndarray:
    frame = np.zeros((3, 8, 8), dtype=np.float32)
    for c, y, x in itertools.product(range(3), range(8), range(8)):
        frame[c, y, x] = pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8, c].astype(np.float64).mean() / 255 * 6 - 3
    return frame


class Toy(gymnasium.Env[np.ndarray, np.ndarray]):
    """A foreign environment with images and continuous actions; an episode lasts ``5 + round(10 a[0])`` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, height: int = 100, width: int = 72, channels: int = 3, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (height, width, channels), np.uint8)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left = 5
        return self._image(), {}

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1 + (action[0] > 0)
        return self._image(), float(action[1]), self.left <= 0, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((100, 72, 3), np.uint8)


@pytest.fixture
def toys() -> Iterator[None]:
    gymnasium.register("Toy-v0", Toy)
    gymnasium.register("Toy64-v0", Toy, kwargs={"height": 64, "width": 64})
    gymnasium.register("ToyGray-v0", Toy, kwargs={"channels": 1})
    yield
    for name in ("Toy-v0", "Toy64-v0", "ToyGray-v0"):
        del gymnasium.registry[name]


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
    emulator = real._emulator(game, AtariProtocol())
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


def test_every_call_returns_memory_of_its_own():
    for env, actions in (
        (make_pixels_vec("Breakout", 2, max_frames=SHORT), np.zeros(2, dtype=np.int64)),
        (make_pixels("Breakout"), 0),
        (make_real("Breakout", 2, obs_type="rgb"), np.zeros(2, dtype=np.int64)),
        (make_real("Breakout", checkpoint=fake_checkpoint()), 0),
    ):
        twin = [env.reset(seed=1)[0].copy(), *(env.step(actions)[0].copy() for _ in range(3))]
        returned = [env.reset(seed=1)[0]]
        for _ in range(3):
            returned[-1][...] = 0  # the caller's to spoil
            returned.append(env.step(actions)[0])
            assert (returned[-1] == twin[len(returned) - 1]).all()
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(returned, 2))


def test_render_shows_the_pixels_enlarged():
    vec = make_pixels_vec("Breakout", 2, render_mode="rgb_array")
    pixels, _ = vec.reset(seed=0)
    lanes, pixels[...] = pixels.copy(), 0  # the caller's to spoil
    frames = vec.render()
    assert isinstance(frames, tuple)
    for frame, lane in zip(frames, lanes, strict=True):
        assert frame.dtype == np.uint8
        assert (frame == np.kron(lane, np.ones((real.RENDER_SCALE, real.RENDER_SCALE, 1), np.uint8))).all()
    single = make_pixels("Breakout", render_mode="rgb_array")
    pixels, _ = single.reset(seed=0)
    shown, pixels[...] = pixels.copy(), 0
    assert (single.render()[:: real.RENDER_SCALE, :: real.RENDER_SCALE] == shown).all()


def test_closing_twice_is_allowed_and_stepping_after_it_is_not():
    for env, actions in ((make_pixels("Pong"), 0), (make_pixels_vec("Pong", 1), np.zeros(1, dtype=np.int64))):
        env.reset(seed=0)
        env.close()
        env.close()
        with pytest.raises(UsageError, match="closed"):
            env.step(actions)


# Single environments


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasiums_checker_is_content(toys):
    for env in (
        make_pixels("Breakout"),
        make_real("Breakout", checkpoint=fake_checkpoint()),
        make_real("Breakout", obs_type="rgb"),
        make_pixels("Toy-v0"),
        make_real("Toy-v0", checkpoint=fake_checkpoint()),
    ):
        check_env(env, skip_render_check=True)
        env.close()


def test_people_can_play(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils.play import play as play_game

    env = make_real("MsPacman", obs_type="rgb", render_mode="rgb_array")
    ale = gymnasium.make("ALE/MsPacman-v5").unwrapped
    theirs = {tuple(keys): action for keys, action in ale.get_keys_to_action().items() if keys != ("e",)}
    assert env.get_wrapper_attr("get_keys_to_action")() == theirs
    seen = []

    def stop(before, after, action, *rest):
        seen.append((after.shape, action))
        pygame.event.post(pygame.event.Event(pygame.QUIT))

    play_game(env, callback=stop, fps=1000, seed=0)
    assert seen[0] == ((64, 64, 12), 0)


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


# The dream's observations


def stacks(vec: VectorEnv, mode: AutoresetMode, frame_of: Any, axis: int, depth: int, steps: int) -> Iterator[Any]:
    """The slow definition: a deque of frames a lane, over an environment that shows pixels."""
    pixels, _ = vec.reset(seed=3)
    lanes = [deque([frame_of(one)] * depth, maxlen=depth) for one in pixels]
    rng = np.random.default_rng(0)
    ended = np.zeros(vec.num_envs, dtype=bool)

    def shown() -> np.ndarray:
        return np.stack([np.concatenate(lane, axis=axis) for lane in lanes])

    yield "reset", None, shown(), {}
    for _ in range(steps):
        actions = rng.integers(0, 4, vec.num_envs)
        pixels, _, terminated, truncated, info = vec.step(actions)
        final = {}
        for i, lane in enumerate(lanes):
            if ended[i] and mode is AutoresetMode.NEXT_STEP:
                lane.extend([frame_of(pixels[i])] * depth)
            elif (terminated[i] or truncated[i]) and mode is AutoresetMode.SAME_STEP:
                lane.append(frame_of(info["final_obs"][i]))
                final[i] = np.concatenate(lane, axis=axis)
                lane.extend([frame_of(pixels[i])] * depth)
            else:
                lane.append(frame_of(pixels[i]))
        ended = terminated | truncated
        yield "step", actions, shown(), final
        if mode is AutoresetMode.DISABLED and ended.any():
            pixels, _ = vec.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                lanes[i].extend([frame_of(pixels[i])] * depth)
            yield "masked", ended, shown(), {}


@pytest.mark.parametrize(
    ("mode", "obs_type", "depth"),
    [*itertools.product(MODES, ("latent",), (4,)), *itertools.product(MODES, ("rgb",), (3,)), (MODES[1], "latent", 1)],
)
def test_observations_are_the_last_frames(mode, obs_type, depth):
    # Lost lives end the lanes' episodes at different times; a truncation's first frame differs from its last.
    arguments = {"life_loss": True, "max_frames": 240, "autoreset_mode": mode}
    model = BlockMeans()
    frames = latent_frames(model, "cpu") if obs_type == "latent" else pixel_frames(64)
    env = EncodedVectorEnv(make_pixels_vec("Breakout", 2, **arguments), frames, depth)
    frame_of, axis = (block_means, 0) if obs_type == "latent" else (lambda pixels: pixels, -1)
    shape = (2, 3 * depth, 8, 8) if obs_type == "latent" else (2, 64, 64, 3 * depth)
    bounds = (-3, 3, np.float32) if obs_type == "latent" else (0, 255, np.uint8)
    assert env.observation_space == Box(bounds[0], bounds[1], shape, bounds[2])
    assert env.single_observation_space == Box(bounds[0], bounds[1], shape[1:], bounds[2])
    finals = 0
    for kind, argument, expected, final in stacks(
        make_pixels_vec("Breakout", 2, **arguments), mode, frame_of, axis, depth, 100
    ):
        model.encoded = 0
        if kind == "reset":
            observations, info = env.reset(seed=3)
        elif kind == "masked":
            observations, info = env.reset(options={"reset_mask": argument})
            assert model.encoded in (0, argument.sum())
        else:
            observations, _, terminated, truncated, info = env.step(argument)
            finals += int((terminated | truncated).sum())
            assert model.encoded == (0 if obs_type == "rgb" else 2 + len(final))
        assert observations.dtype == bounds[2]
        assert np.allclose(observations, expected, rtol=0, atol=1e-6)
        assert observations in env.observation_space
        assert ("final_obs" in info) == bool(final)
        for lane in range(2):
            if final and lane in final:
                assert info["_final_obs"][lane]
                assert np.allclose(info["final_obs"][lane], final[lane], rtol=0, atol=1e-6)
            elif final:
                assert info["final_obs"][lane] is None
    assert finals >= 2


def test_a_single_game_is_a_lane():
    for obs_type, space in (("rgb", Box(0, 255, (64, 64, 6), np.uint8)), ("latent", Box(-3, 3, (6, 8, 8), np.float32))):
        vec = make_real("Breakout", 1, fake_checkpoint(), obs_type, 2)
        single = make_real("Breakout", None, fake_checkpoint(), obs_type, 2)
        assert single.observation_space == vec.single_observation_space == space
        assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (vec.reset(seed=9)[0][0] == single.reset(seed=9)[0]).all()
    for action in (1, 2, 3, 0, 2):
        assert (vec.step(np.array([action]))[0][0] == single.step(action)[0]).all()


def test_the_encoder_is_found_where_the_dream_is(monkeypatch):
    asked = []
    module = SimpleNamespace(find_checkpoint=lambda game, where: asked.append((game, where)) or fake_checkpoint())
    monkeypatch.setitem(sys.modules, "jedi_env.checkpoint", module)
    make_real("Breakout")
    make_real("Breakout", 1, "some/folder")
    assert asked == [("Breakout", None), ("Breakout", "some/folder")]


# Other environments


@settings(max_examples=20, deadline=None)
@given(height=st.integers(64, 220), width=st.integers(64, 200), seed=st.integers(0, 2**16))
def test_area_averaging_is_opencvs(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = AreaResize(Toy(height, width)).observation(image)
    unrounded = cv2.resize(image.astype(np.float64), (64, 64), interpolation=cv2.INTER_AREA)
    assert abs(ours - unrounded).max() <= 0.5 + 1e-3


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), level=st.integers(0, 255))
def test_area_averaging_keeps_a_plain_image(height, width, level):
    env = AreaResize(Toy(height, width))
    assert (env.observation(np.full((height, width, 3), level, np.uint8)) == level).all()


def test_other_ids_show_resized_images_with_their_own_actions(toys):
    env = make_real("Toy-v0", obs_type="rgb", frame_stack=2, render_mode="rgb_array")
    assert env.action_space == Box(-1, 1, (2,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (64, 64, 6)
    assert env.render().shape == (100, 72, 3)
    untouched = make_pixels("Toy64-v0")
    assert (untouched.reset(seed=0)[0] == gymnasium.make("Toy64-v0").reset(seed=0)[0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_other_ids_have_the_vector_form(mode, toys):
    ours = make_pixels_vec("Toy-v0", 2, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: make_pixels("Toy-v0")] * 2, autoreset_mode=mode)
    assert same(ours.reset(seed=1), theirs.reset(seed=1))
    for _ in range(9):
        actions = ours.action_space.sample()
        got = ours.step(actions)
        assert same(got, theirs.step(actions))
        ended = got[2] | got[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            with pytest.raises(UsageError, match="reset_mask"):
                ours.step(actions)
            assert same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended}))


def test_an_ale_id_outside_the_26_works():
    env = make_pixels("ale_py:ALE/Tennis-v5")
    assert env.reset(seed=0)[0].shape == (64, 64, 3)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_pixels("Brekout"), "Did you mean 'Breakout'"),
        (lambda: make_pixels_vec("breakout", 2), "Did you mean 'Breakout'"),
        (lambda: make_real("CartPole-v9", 2), "version `v9`"),
        (lambda: make_pixels("nowhere:Nope-v0"), "nowhere"),
        (lambda: make_pixels("CartPole-v1"), "uint8 images"),
        (lambda: make_pixels("ToyGray-v0"), "uint8 images"),
        (lambda: make_pixels("Toy-v0", sticky=0.25), "leave them out"),
        (lambda: make_pixels("Breakout", sticky=25), "from 0 to 1"),
        (lambda: make_pixels("Breakout", noop_max=-1), "noop_max"),
        (lambda: make_pixels("Breakout", render_mode="human"), "gymnasium.utils.play"),
        (lambda: make_pixels_vec("Breakout", 0), "num_envs"),
        (lambda: make_pixels_vec("Breakout", 2, autoreset_mode="same"), "SameStep"),
        (lambda: make_real("Breakout", obs_type="pixels"), "'latent' or 'rgb'"),
        (lambda: make_real("Breakout", obs_type="rgb", frame_stack=0), "frame_stack"),
        (lambda: make_real("Breakout", checkpoint=fake_checkpoint(), frame_stack=5), "from 1 to 4"),
        (lambda: make_real("Breakout", 2, fake_checkpoint(), frame_stack=5), "from 1 to 4"),
    ],
)
def test_wrong_arguments_are_refused(call, message, toys):
    with pytest.raises(UsageError, match=message):
        call()


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


def test_neither_ale_py_nor_torch_is_imported_early():
    code = "import sys, jedi_env.envs.real; print([n for n in ('ale_py', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ale_py.__name__ in sys.modules  # this process has it: the check above can fail
