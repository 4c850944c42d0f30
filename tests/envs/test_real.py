"""The real game as its dream shows it, against slow definitions, SyncVectorEnv and Gymnasium's checker."""

import itertools
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from tiny_dream import SYMLOG, tiny_checkpoint
from toy_game import Toy, same

from jedi_env.actions import BoxActions, DiscreteActions
from jedi_env.envs.encode import CHUNK, EncodedVectorEnv, latent_frames, pixel_frames
from jedi_env.envs.real import make_pixels, make_pixels_vec, make_real
from jedi_env.errors import UsageError

MODES = tuple(AutoresetMode)
SHORT = 48  # emulator frames after which the games of some tests are truncated: 12 steps


class BlockMeans(torch.nn.Module):
    """A fake world model whose frames are easy to check: means of 8x8 blocks in [-3, 3]; it counts what it encodes."""

    frame_shape = (3, 8, 8)
    bound = 3.0
    context_length = 4
    actions = DiscreteActions(4)

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.encoded += len(pixels)
        blocks = pixels.unflatten(-2, (8, 8)).unflatten(-4, (8, 8)).double().mean(dim=(-4, -2))
        return (blocks / 255 * 6 - 3).movedim(-1, -3)


class FakeCheckpoint:
    """It is everywhere, as :class:`BlockMeans` has no weights."""

    def __init__(self) -> None:
        self.world_model = BlockMeans()

    def to(self, device: torch.device) -> "FakeCheckpoint":
        return self


def block_means(pixels: np.ndarray) -> np.ndarray:
    frame = np.zeros((3, 8, 8), dtype=np.float32)
    for c, y, x in itertools.product(range(3), range(8), range(8)):
        frame[c, y, x] = pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8, c].astype(np.float64).mean() / 255 * 6 - 3
    return frame


@pytest.fixture
def toys() -> Iterator[None]:
    gymnasium.register("Toy-v0", Toy)
    gymnasium.register("Toy64-v0", Toy, kwargs={"height": 64, "width": 64})
    gymnasium.register("ToyAlpha-v0", Toy, kwargs={"channels": 4})
    yield
    for name in ("Toy-v0", "Toy64-v0", "ToyAlpha-v0"):
        del gymnasium.registry[name]


def test_every_call_returns_memory_of_its_own():
    for env, actions in (
        (make_pixels_vec("Breakout", 2, max_frames=SHORT), np.zeros(2, dtype=np.int64)),
        (make_pixels("Breakout"), 0),
        (make_real("Breakout", 2, obs_type="rgb"), np.zeros(2, dtype=np.int64)),
        (make_real("Breakout", checkpoint=FakeCheckpoint()), 0),
    ):
        twin = [env.reset(seed=1)[0].copy(), *(env.step(actions)[0].copy() for _ in range(3))]
        returned = [env.reset(seed=1)[0]]
        for _ in range(3):
            returned[-1][...] = 0  # the caller's to spoil
            returned.append(env.step(actions)[0])
            assert (returned[-1] == twin[len(returned) - 1]).all()
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(returned, 2))


# Single environments


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasiums_checker_is_content(toys):
    for env in (
        make_pixels("Breakout"),
        make_real("Breakout", checkpoint=FakeCheckpoint()),
        make_real("Breakout", obs_type="rgb"),
        make_pixels("Toy-v0"),
        make_real("Toy-v0", checkpoint=FakeCheckpoint()),
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


def test_the_frame_skip_is_that_of_the_real_game():
    """Of one lane, and of several."""
    with closing(make_real("Breakout", obs_type="rgb", frame_skip=7)) as env:
        _, before = env.reset(seed=0)
        assert env.step(0)[4]["frame_number"] - before["frame_number"] == 7
    with closing(make_real("Breakout", 2, obs_type="rgb", frame_skip=(2, 6))) as env:
        _, info = env.reset(seed=0)
        frames = [info["frame_number"], *(env.step(np.zeros(2, np.int64))[4]["frame_number"] for _ in range(40))]
        assert set(np.diff(frames, axis=0).ravel()) == {2, 3, 4, 5, 6}
    with pytest.raises(UsageError, match="frame_skip is 0"):
        make_real("Breakout", 2, obs_type="rgb", frame_skip=0)


@pytest.mark.parametrize(
    ("mode", "obs_type", "depth"),
    [*itertools.product(MODES, ("latent",), (4,)), *itertools.product(MODES, ("rgb",), (3,)), (MODES[1], "latent", 1)],
)
def test_observations_are_the_last_frames(mode, obs_type, depth):
    # Lost lives end the lanes' episodes at different times; a truncation's first frame differs from its last.
    arguments = {"life_loss": True, "max_frames": 240, "autoreset_mode": mode}
    model = BlockMeans()
    frames = latent_frames(model, torch.device("cpu")) if obs_type == "latent" else pixel_frames(64)
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
            assert model.encoded in (0, CHUNK)
        else:
            observations, _, terminated, truncated, info = env.step(argument)
            finals += int((terminated | truncated).sum())
            assert model.encoded == (0 if obs_type == "rgb" else CHUNK)  # two lanes and at most two first frames
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
        vec = make_real("Breakout", 1, FakeCheckpoint(), obs_type, 2)
        single = make_real("Breakout", None, FakeCheckpoint(), obs_type, 2)
        assert single.observation_space == vec.single_observation_space == space
        assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (vec.reset(seed=9)[0][0] == single.reset(seed=9)[0]).all()
    for action in (1, 2, 3, 0, 2):
        assert (vec.step(np.array([action]))[0][0] == single.step(action)[0]).all()


def test_the_encoder_is_found_where_the_dream_is(monkeypatch):
    asked = []
    module = SimpleNamespace(find_checkpoint=lambda *arguments: asked.append(arguments) or FakeCheckpoint())
    monkeypatch.setitem(sys.modules, "jedi_env.find", module)
    make_real("Breakout", device="meta")
    make_real("Breakout", 1, "some/folder", device="cpu")
    assert asked == [("Breakout", None, torch.device("meta")), ("Breakout", "some/folder", torch.device("cpu"))]


def test_a_loaded_checkpoint_stays_where_it_is():
    checkpoint = tiny_checkpoint()
    make_real("Breakout", checkpoint=checkpoint, device="meta")  # a device that every machine has
    assert {tensor.device.type for tensor in checkpoint.world_model.state_dict().values()} == {"cpu"}
    env = make_real("Breakout", checkpoint=checkpoint, device="cpu")
    assert env.reset(seed=0)[0] in env.observation_space


def test_a_loaded_checkpoint_of_another_game_is_refused_as_its_folder_is(tmp_path):
    checkpoint = tiny_checkpoint(game="Breakout")
    checkpoint.save(tmp_path / "dream")
    for given in (checkpoint, tmp_path / "dream"):
        for lanes in (None, 2):
            with pytest.raises(UsageError, match="a dream of Breakout, not of Pong"):
                make_real("Pong", lanes, given, device="cpu")


def test_a_dream_of_other_actions_than_the_game_s_is_refused_under_any_id():
    pong = "ale_py:ALE/Pong-v5"  # an id that says nothing of the 26 games, and six actions
    for lanes in (None, 2):
        with pytest.raises(UsageError, match=r"Discrete\(6\), and the dream has Discrete\(4\): .* \(Breakout\)"):
            make_real(pong, lanes, tiny_checkpoint(game="Breakout"), device="cpu")
        with pytest.raises(UsageError, match="which one, it does not say"):
            make_real(pong, lanes, tiny_checkpoint(game=None), device="cpu")
    assert make_real("ale_py:ALE/Breakout-v5", 2, tiny_checkpoint(game="Breakout"), device="cpu").num_envs == 2


def test_an_id_that_its_package_has_not_registered_yet_is_told_how_to_be_named():
    with pytest.raises(UsageError, match="names it: 'ale_py:ALE/Breakout-v5'"):
        make_real("Nowhere/Breakout-v5", obs_type="rgb")


# Other environments


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


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("JEDICatch-v0", {}, np.array([1, 7])),
        ("JEDICatch-v0", {}, np.array([1])),
        ("JEDICatch-v0", {}, np.array([1.0, 1.0])),
        ("Pong", {"frame_skip": (2, 6)}, np.array([1, 70])),
    ],
)
def test_wrong_actions_move_no_lane(name, arguments, wrong):
    env, twin = (make_pixels_vec(name, 2, **arguments) for _ in range(2))
    for one in (env, twin):
        one.reset(seed=0)
    with pytest.raises(UsageError, match="The actions"):
        env.step(wrong)
    assert same(env.step(np.array([1, 1])), twin.step(np.array([1, 1])))


def test_the_real_game_has_the_action_space_of_its_dream(toys, monkeypatch):
    """A Box of float64 becomes one of float32, as in the dream."""
    made = gymnasium.make

    def make(*arguments, **named):
        env = made(*arguments, **named)
        env.action_space = Box(-1, 1, (2,), np.float64)
        return env

    monkeypatch.setattr(gymnasium, "make", make)
    checkpoint = tiny_checkpoint(SYMLOG, actions=BoxActions((-1.0, -1.0), (1.0, 1.0)), game="Toy-v0")
    single = make_real("Toy-v0", checkpoint=checkpoint, device="cpu")
    many = make_real("Toy-v0", 2, checkpoint=checkpoint, device="cpu")
    space = checkpoint.world_model.actions.space
    assert single.action_space == many.single_action_space == space
    single.reset(seed=0)
    many.reset(seed=0)
    single.step(single.action_space.sample())
    many.step(many.action_space.sample())


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
        (lambda: make_pixels("ToyAlpha-v0"), "uint8 images"),
        (lambda: make_pixels("Toy-v0", sticky=0.25), "leave them out"),
        (lambda: make_pixels("Breakout", sticky=25), "from 0 to 1"),
        (lambda: make_pixels("Breakout", sticky="a"), "sticky is 'a'.*from 0 to 1"),
        (lambda: make_pixels("Breakout", sticky=True), "sticky is True.*from 0 to 1"),
        (lambda: make_pixels("Breakout", noop_max=-1), "noop_max"),
        (lambda: make_pixels("Breakout", noop_max="3"), "noop_max is '3'"),
        (lambda: make_pixels("Breakout", max_frames=2.5), "max_frames is 2.5"),
        (lambda: make_pixels("Breakout", max_frames=None), "max_frames is None"),
        (lambda: make_pixels("Breakout", frame_skip="4"), "frame_skip is '4'"),
        (lambda: make_pixels("Breakout", frame_skip=(2, 3, 4)), "frame_skip is"),
        (lambda: make_pixels("Breakout", frame_skip=(3, 2)), "frame_skip is"),
        (lambda: make_pixels("Breakout", frame_skip=()), r"frame_skip is \(\)"),
        (lambda: make_real("Breakout", obs_type="rgb", sticky="a"), "sticky is 'a'"),
        (lambda: make_real("Breakout", obs_type="rgb", life_loss="yes"), "life_loss is 'yes'; write True or False"),
        (lambda: make_real("Breakout", checkpoint=5), "A checkpoint is a folder, .* not 5"),
        (lambda: make_real("Breakout", 2, checkpoint=5), "A checkpoint is a folder, .* not 5"),
        (lambda: make_real(7, obs_type="rgb"), "The game is 7: write one of"),
        (lambda: make_real(None, 2, obs_type="rgb"), "The game is None: write one of"),
        (lambda: make_real("Breakout", obs_type=5), "obs_type is 5"),
        (lambda: make_pixels("Breakout", render_mode="human"), "gymnasium.utils.play"),
        (lambda: make_pixels_vec("Breakout", 0), "num_envs"),
        (lambda: make_pixels_vec("Breakout", 2, autoreset_mode="same"), "SameStep"),
        (lambda: make_real("Breakout", obs_type="pixels"), "'latent' or 'rgb'"),
        (lambda: make_real("Breakout", obs_type="rgb", frame_stack=0), "frame_stack"),
        (lambda: make_real("Breakout", obs_type="rgb").reset(options={"foo": 1}), "Unknown reset option 'foo'"),
        (lambda: make_real("Breakout", obs_type="rgb").reset(options=[1]), "options is a list: write a dict"),
        (lambda: make_real("Breakout", checkpoint=FakeCheckpoint(), frame_stack=5), "from 1 to 4"),
        (lambda: make_real("Breakout", 2, FakeCheckpoint(), frame_stack=5), "from 1 to 4"),
    ],
)
def test_wrong_arguments_are_refused(call, message, toys):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize("frame_skip", [4, (2, 3)])
def test_an_unknown_option_of_many_lanes_changes_nothing(frame_skip):
    arguments = {"max_frames": 20, "frame_skip": frame_skip, "autoreset_mode": AutoresetMode.NEXT_STEP}
    env, twin = (make_pixels_vec("Breakout", 2, **arguments) for _ in range(2))
    for one in (env, twin):
        one.reset(seed=1)
    ended = 0
    for _ in range(24):
        for options, message in (
            ({"rest_mask": np.array([True, False])}, "Unknown reset option 'rest_mask'. Did you mean 'reset_mask'"),
            (5, "options is a int"),
        ):
            with pytest.raises(UsageError, match=message):
                env.reset(options=options)
        steps = [one.step(np.ones(2, dtype=np.int64)) for one in (env, twin)]
        assert same(*steps)
        ended += int(steps[0][3].sum())
    assert ended >= 4


def test_no_mask_is_a_reset_of_every_lane():
    for env in (make_pixels_vec("Breakout", 2), make_real("Breakout", 2, obs_type="rgb")):
        options = {"reset_mask": None}
        begun = [env.reset(seed=3, options=given)[0] for given in (None, options)]
        assert (begun[0] == begun[1]).all()
        assert options == {"reset_mask": None}


def test_options_of_other_games_are_theirs(toys, monkeypatch):
    seen = []
    reset = Toy.reset
    monkeypatch.setattr(
        Toy, "reset", lambda self, *, seed=None, options=None: (seen.append(options), reset(self, seed=seed))[1]
    )
    make_pixels("Toy-v0").reset(options={"level": 3})
    make_pixels_vec("Toy-v0", 1).reset(options={"level": 3})
    assert seen == [{"level": 3}] * 2


def test_neither_ale_py_nor_torch_is_imported_early():
    code = "import sys, jedi_env.envs.real; print([n for n in ('ale_py', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ale_py.__name__ in sys.modules  # this process has it: the check above can fail
