"""Who plays: the keyboard key by key, and the agents against the way in which they are scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jedi_env.checkpoint import AgentRecord
from jedi_env.config_json import to_json
from jedi_env.envs.real import make_pixels, make_real
from jedi_env.errors import UsageError
from tests.tiny_dream import NUM_ACTIONS, tiny_checkpoint
from tests.trainers.fakes import random_weights
from trainers.agent import ActorCritic, ActorCriticConfig
from trainers.evaluate import agent_of
from trainers.players import Chance, Native, Person, Sb3, Wish
from trainers.policy import AgentPolicy
from trainers.sb3 import make_algorithm

NOTHING = np.zeros(0, np.float32)
# Of Seaquest, say: FIRE, UP, LEFT, UPFIRE and a digit.
KEYS = {(" ",): 1, ("w",): 2, ("a",): 4, ("w", " "): 7, ("9",): 9}


@pytest.fixture
def keyboard():
    """Post events, then see what the person does: 'x' presses, '-x' releases, others are pygame's names."""
    pygame = pytest.importorskip("pygame")
    pygame.display.init()
    pygame.display.set_mode((8, 8))
    pygame.event.get()
    person = Person(KEYS)

    def press(*keys):
        for key in keys:
            down = not key.startswith("-")
            code = pygame.key.key_code(key.removeprefix("-"))
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN if down else pygame.KEYUP, key=code))
        return person.act(NOTHING, False)

    press.post = lambda kind: pygame.event.post(pygame.event.Event(getattr(pygame, kind)))
    yield press
    pygame.display.quit()


def test_no_key_is_idle(keyboard):
    assert keyboard() == 0
    assert Person(KEYS, idle=3).act(NOTHING, True) == 3


def test_a_key_counts_as_long_as_it_is_down(keyboard):
    assert [keyboard("w"), keyboard(), keyboard(), keyboard("-w"), keyboard()] == [2, 2, 2, 2, 0]


def test_a_tap_between_two_steps_counts_once(keyboard):
    assert [keyboard("space", "-space"), keyboard()] == [1, 0]


def test_the_arrows_are_letters_too(keyboard):
    assert keyboard("up", "-up") == 2
    assert keyboard("left", "-left") == 4
    assert keyboard("9", "-9") == 9


def test_the_most_keys_win(keyboard):
    assert keyboard("w", "space") == 7
    assert keyboard("a") == 7
    assert keyboard("-w", "-space") == 7  # they were down until now
    assert keyboard() == 4


def test_other_keys_are_nothing(keyboard):
    assert keyboard("q", "down", "left") == 4


def test_wishes(keyboard):
    assert keyboard("r", "-r") is Wish.RESTART
    assert keyboard("a", "r", "-r") is Wish.RESTART
    assert keyboard() == 4  # what is held stays held
    assert keyboard("escape") is Wish.QUIT
    keyboard.post("QUIT")
    assert keyboard() is Wish.QUIT


def test_a_window_that_loses_the_keyboard_holds_no_keys(keyboard):
    assert keyboard("a") == 4
    keyboard.post("WINDOWFOCUSLOST")
    keyboard()
    assert keyboard() == 0


def test_pygame_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pygame", None)
    with pytest.raises(UsageError, match=r"pip install 'jedi-env\[play\]'"):
        Person(KEYS)


def test_chance_is_uniform_and_seeded():
    drawn = [Chance(4, seed).act(NOTHING, True) for seed in range(400)]
    assert np.bincount(drawn).min() > 60  # 100 each, with a deviation of 8.7
    one, other = Chance(9, 5), Chance(9, 5)
    assert [one.act(NOTHING, False) for _ in range(20)] == [other.act(NOTHING, False) for _ in range(20)]


def with_agent(lstm_dim, frame_stack):
    checkpoint = tiny_checkpoint()
    config = ActorCriticConfig(channels=(4,), down=(False,), lstm_dim=lstm_dim, frame_stack=frame_stack)
    agent = random_weights(ActorCritic(checkpoint.world_model.frame_shape, NUM_ACTIONS, config), scale=1.0)
    return replace(checkpoint, agent=AgentRecord(to_json(config), dict(agent.state_dict())))


@pytest.mark.parametrize(("lstm_dim", "frame_stack"), [(8, 1), (0, 3)])
def test_the_native_agent_plays_as_it_is_scored(lstm_dim, frame_stack):
    """Through observations of one environment, and through the batch of pixels of the scoring."""
    checkpoint = with_agent(lstm_dim, frame_stack)
    player = Native(agent_of(checkpoint), torch.Generator().manual_seed(1))
    policy = AgentPolicy(checkpoint.world_model, agent_of(checkpoint), torch.Generator().manual_seed(1))
    latents = make_real("Breakout", checkpoint=checkpoint, frame_stack=frame_stack)
    pixels = make_pixels("Breakout")
    seen = []
    for game in range(2):
        observation, _ = latents.reset(seed=game)
        picture, _ = pixels.reset(seed=game)
        for step in range(30):
            action = player.act(observation, step == 0)
            assert action == policy.act(picture[None], np.array([step == 0]))[0]
            observation, *_ = latents.step(action)
            picture, *_ = pixels.step(action)
            seen.append(action)
    assert len(set(seen)) > 1
    latents.close()
    pixels.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "a2c.zip"
    make_algorithm("A2C", tiny_checkpoint(), 1, 0, None).save(path)
    return path


class TestSb3:
    def test_it_plays_as_the_library_does(self, saved):
        from stable_baselines3 import A2C

        player, model = Sb3(saved, "A2C", tiny_checkpoint()), A2C.load(saved, device="cpu")
        assert player.frame_stack == 4
        seen = np.random.default_rng(0).normal(size=(20, *model.observation_space.shape)).astype(np.float32)
        torch.manual_seed(0)
        ours = [player.act(observation, i == 0) for i, observation in enumerate(seen)]
        torch.manual_seed(0)
        assert ours == [int(model.predict(observation)[0]) for observation in seen]
        assert len(set(ours)) > 1

    def test_memory_lasts_an_episode(self, tmp_path):
        pytest.importorskip("sb3_contrib")
        model = make_algorithm("RecurrentPPO", tiny_checkpoint(), 1, 0, None)
        with torch.no_grad():
            for parameter in model.policy.parameters():
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
        model.save(tmp_path / "p.zip")
        player = Sb3(tmp_path / "p.zip", "RecurrentPPO", tiny_checkpoint())
        observation = np.ones(model.observation_space.shape, np.float32)

        def memory(first):
            player.act(observation, first)
            return np.concatenate([part.ravel() for part in player._memory])

        begun, later, again = memory(True), memory(False), memory(True)
        assert (begun == again).all()
        assert (begun != later).any()

    @pytest.mark.parametrize(
        ("algo", "said"),
        [("A2c", "Did you mean 'A2C'?"), ("DQN", "is no policy of DQN")],
    )
    def test_another_algorithm(self, saved, algo, said):
        with pytest.raises(UsageError, match=said.replace("?", r"\?")):
            Sb3(saved, algo, tiny_checkpoint())

    def test_what_is_no_policy(self, tmp_path):
        with pytest.raises(UsageError, match="There is no file"):
            Sb3(tmp_path / "nowhere.zip", "PPO", tiny_checkpoint())
        (tmp_path / "a.zip").write_bytes(b"text")
        with pytest.raises(UsageError, match="is no policy of PPO"):
            Sb3(tmp_path / "a.zip", "PPO", tiny_checkpoint())

    def test_a_policy_of_another_dream(self, saved):
        from tests.tiny_dream import PIXEL

        with pytest.raises(UsageError, match="trained in latents of this dream"):
            Sb3(saved, "A2C", tiny_checkpoint(PIXEL))
