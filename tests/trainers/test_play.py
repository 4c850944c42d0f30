"""jedi-env play: the loop, the three worlds against what they are made of, the window, and the command itself."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from jedi_env.actions import DiscreteActions
from jedi_env.checkpoint import AgentRecord
from jedi_env.config_json import to_json
from jedi_env.envs.real import make_pixels, make_real
from jedi_env.envs.single import DreamEnv
from jedi_env.errors import UsageError
from tests.fakes import ACTIONS, CPU, END, K, counting_checkpoint
from tests.tiny_dream import NUM_ACTIONS, tiny_checkpoint
from tests.trainers.fakes import TOY, random_weights
from tests.trainers.test_cli import MICRO
from tests.trainers.test_video import read
from trainers.agent import ActorCritic, ActorCriticConfig
from trainers.play import DreamBesideReality, Dreaming, Played, Reality, WindowScreen, play
from trainers.players import Person, Wish
from trainers.video import GAP, Panel


class Script:
    """Plays a list of actions and wishes, and notes what it saw."""

    def __init__(self, *wanted):
        self.wanted, self.seen = list(wanted), []

    def act(self, observation, first):
        self.seen.append((observation, first))
        return self.wanted.pop(0) if self.wanted else Wish.QUIT


class Counter:
    """Counts up by the action, and ends at 10 or more; a score is what was counted."""

    actions = DiscreteActions(11)
    keys = {("d",): 1, ("a",): 10}  # noqa: RUF012

    def __init__(self):
        self.seeds = []

    def reset(self, seed):
        self.seeds.append(seed)
        self.count = 0
        return self.count

    def step(self, action):
        self.count += action
        return self.count, self.count >= 10

    def panels(self):
        return [Panel(np.full((8, 8, 3), self.count, np.uint8), (f"at {self.count}",))]

    def score(self):
        return float(self.count)


class Notes:
    def __init__(self):
        self.shown = []

    def show(self, panels):
        self.shown.append([panel.lines for panel in panels])


class TestLoop:
    def test_an_episode_follows_another(self):
        world, player, screen = Counter(), Script(1, 9, 2), Notes()
        assert play(world, player, screen, None, 7) == Played(3, [10.0], 2.0)
        assert player.seen == [(0, True), (1, False), (0, True), (2, False)]
        assert world.seeds == [7, None]
        assert screen.shown == [[(f"at {count}",)] for count in (0, 1, 10, 0, 2)]

    def test_a_number_of_steps(self):
        assert play(Counter(), Script(*[3] * 9), Notes(), 5, 0) == Played(5, [12.0], 3.0)

    def test_beginning_anew_is_no_step_and_no_end(self):
        world, player, screen = Counter(), Script(4, Wish.RESTART, 5), Notes()
        assert play(world, player, screen, None, 7) == Played(2, [], 5.0)
        assert player.seen == [(0, True), (4, False), (0, True), (5, False)]
        assert world.seeds == [7, None]
        assert screen.shown == [[(f"at {count}",)] for count in (0, 4, 0, 5)]


class TestDreaming:
    def test_it_is_the_dream(self):
        checkpoint = counting_checkpoint(bank=5)
        world, env = Dreaming(checkpoint, 2, 3, "cpu"), DreamEnv(checkpoint=checkpoint, frame_stack=2, horizon=3, **CPU)
        for seed in (4, None):
            assert (world.reset(seed) == env.reset(seed=seed)[0]).all()
            for action, ends in ((1, False), (0, False), (2, True)):  # at the horizon
                observation, ended = world.step(action)
                assert (observation == env.step(action)[0]).all()
                assert ended == ends
        world.reset(None)
        assert world.step(END)[1]
        assert world.actions == DiscreteActions(ACTIONS)

    def test_what_it_tells(self):
        world = Dreaming(counting_checkpoint(bank=1, end_chance=0.25), 1, None, "cpu")
        world.reset(0)
        (panel,) = world.panels()
        assert panel.lines == ("dream", "return 0, step 0", "")
        assert (panel.picture.shape, panel.picture[0, 0].tolist()) == ((256, 256, 3), [3, 0, 7])
        for action, lines in (
            (1, ("dream", "return 1, step 1", "reward -0.00 +1.00, end 0.25")),
            (1, ("dream", "return 2, step 2", "reward -0.00 +1.00, end 0.25")),
            (2, ("dream", "return 1, step 3", "reward -1.00 +0.00, end 0.25")),
        ):
            world.step(action)
            assert world.panels()[0].lines == lines
            assert f"return {world.score():g}," in lines[1]
        assert world.panels()[0].picture[255, 255].tolist() == [7, 0, 7]
        assert Dreaming(tiny_checkpoint(decoder=True), 1, None, "cpu").panels  # made, so its name is known
        assert Dreaming(tiny_checkpoint(decoder=True), 1, None, "cpu").name == "dream of Breakout"

    def test_without_a_horizon_it_lasts(self):
        world = Dreaming(counting_checkpoint(horizon=2), 1, None, "cpu")
        world.reset(0)
        assert not any(world.step(0)[1] for _ in range(100))

    def test_keys(self):
        meanings = ["NOOP", "FIRE", "UP", "LEFT"]
        told = Dreaming(counting_checkpoint(protocol={"action_meanings": meanings}), 1, None, "cpu")
        assert told.keys == {(" ",): 1, ("w",): 2, ("a",): 3}
        assert Dreaming(counting_checkpoint(), 1, None, "cpu").keys == {(str(i),): i for i in range(ACTIONS)}
        asked = Dreaming(tiny_checkpoint(decoder=True), 1, None, "cpu")  # it does not tell, but its game does
        assert asked.keys == {(" ",): 1, ("d",): 2, ("a",): 3}
        nowhere = Dreaming(tiny_checkpoint(decoder=True, game="Nowhere-v0"), 1, None, "cpu")
        assert nowhere.keys == {(str(i),): i for i in range(NUM_ACTIONS)}

    def test_nothing_to_draw_with(self):
        with pytest.raises(UsageError, match="no decoder"):
            Dreaming(tiny_checkpoint(), 1, None, "cpu")


class TestReality:
    def test_latents_are_those_of_make_real(self):
        checkpoint = tiny_checkpoint()
        world, env = Reality("Breakout", checkpoint, 3), make_real("Breakout", checkpoint=checkpoint, frame_stack=3)
        for seed in (4, None):
            assert (world.reset(seed) == env.reset(seed=seed)[0]).all()
            score = 0.0
            for action in np.random.default_rng(0).integers(4, size=60).tolist():
                observation, ended = world.step(action)
                expected, reward, terminated, truncated, _ = env.step(action)
                score += float(reward)
                assert (observation == expected).all()
                assert ended == (terminated or truncated)
            assert world.score() == score
        assert world.keys == env.get_wrapper_attr("get_keys_to_action")()
        world.close()
        env.close()

    def test_without_a_checkpoint_it_shows_and_tells_the_game(self):
        world, env = Reality("JEDICatch-v0", None, 1), make_pixels("JEDICatch-v0")
        world.reset(11)
        pixels, _ = env.reset(seed=11)
        score = 0.0
        for step in range(1, 19):
            world.step(1)
            pixels, reward, *_ = env.step(1)
            score += float(reward)
            (panel,) = world.panels()
            assert (panel.picture[::4, ::4] == pixels).all()
            assert panel.picture.shape == (256, 256, 3)
            assert panel.lines == ("real JEDICatch-v0", f"return {score:g}, step {step}")
        assert (world.actions, world.keys) == (DiscreteActions(3), {("a",): 1, ("d",): 2})

    def test_the_digits_where_a_game_has_no_keys(self):
        assert Reality(TOY, None, 1).keys == {("0",): 0, ("1",): 1, ("2",): 2}

    def test_the_rules_are_those_of_the_checkpoint(self):
        world = Reality("Breakout", replace(tiny_checkpoint(), protocol={"frame_skip": 2, "sticky": 0.25}), 1)
        assert world.env.unwrapped.protocol.frame_skip == 2
        assert world.env.unwrapped.protocol.sticky == 0.25
        world.close()

    def test_continuous_actions(self):
        import gymnasium

        from tests.toy_game import Toy

        gymnasium.register("ToyOfPlay-v0", Toy)
        world = Reality("ToyOfPlay-v0", None, 1)
        assert world.keys[("d", "s")].tolist() == [1.0, -1.0]
        world.reset(0)
        assert not world.step(world.keys[("w",)])[1]
        assert world.score() == 1.0  # the second number is paid
        del gymnasium.registry["ToyOfPlay-v0"]

    def test_actions_that_no_dream_takes(self):
        import gymnasium

        from tests.toy_game import Toy

        class Buttons(Toy):
            def __init__(self, render_mode=None):
                super().__init__()
                self.action_space = gymnasium.spaces.MultiBinary(2)

        gymnasium.register("ButtonsOfPlay-v0", Buttons)
        with pytest.raises(UsageError, match="takes Discrete actions from 0, or a bounded Box"):
            Reality("ButtonsOfPlay-v0", None, 1)
        del gymnasium.registry["ButtonsOfPlay-v0"]


class TestDreamBesideReality:
    """The toy game shows its place in a pixel that the counting world reads; both move by the action."""

    @pytest.fixture
    def world(self):
        checkpoint = replace(counting_checkpoint(), game=TOY)
        both = DreamBesideReality(Reality(TOY, checkpoint, 2), Dreaming(checkpoint, 1, 5, "cpu"))
        yield both
        both.reality.close()
        both.dreaming.close()

    def test_the_dream_begins_where_the_game_is(self, world):
        alone = Reality(TOY, replace(counting_checkpoint(), game=TOY), 2)
        alone.reset(3)
        for _ in range(K - 1):
            expected, _ = alone.step(0)
        assert (world.reset(3) == expected).all()
        dreamed = world.dreaming.env.clone_state().model
        assert dreamed.frames[0, :, 0, 0, 0].tolist() == [frame[0, 0, 0] for frame in alone_frames(3)]
        assert dreamed.actions.tolist() == [[0] * (K - 1)]

    def test_both_take_the_action(self, world):
        alone = Reality(TOY, None, 1)
        alone.reset(3)
        for _ in range(K - 1):
            alone.step(0)
        world.reset(3)
        place = world.dreaming.env.clone_state().model.frames[0, -1, 0, 0, 0].item()
        for action in (1, 0, 1, 2):
            world.step(action)
            alone.step(action)
            place += action
            real, dream = world.panels()
            assert (real.picture == alone.panels()[0].picture).all()
            assert dream.picture[0, 0, 0] == place
        assert real.lines[0] == f"real {TOY}"
        assert dream.lines == (f"dream of {TOY}, no. 1", "return 1, step 4", "reward -1.00 +0.00, end 0.00")
        assert world.score() == alone.score()

    def test_a_dream_that_ended_goes_on_from_reality(self, world):
        world.reset(3)
        numbers = []
        for _ in range(12):
            world.step(1)
            real, dream = world.panels()
            numbers.append(int(dream.lines[0].rpartition(" ")[2]))
            if len(numbers) in (5, 10):
                assert dream.picture[0, 0, 0] == real.picture[0, 0, 0]
                assert dream.lines[1] == "return 0, step 0"
        assert numbers == [1] * 4 + [2] * 5 + [3] * 3  # its horizon is 5
        world.reset(None)
        assert world.panels()[1].lines[0].endswith("no. 1")

    def test_a_game_shorter_than_a_memory(self):
        import gymnasium

        from tests.trainers.fakes import ToyGame

        gymnasium.register("ShortToy-v0", ToyGame, kwargs={"limit": 2})
        checkpoint = replace(counting_checkpoint(), game="ShortToy-v0")
        world = DreamBesideReality(Reality("ShortToy-v0", checkpoint, 1), Dreaming(checkpoint, 1, 5, "cpu"))
        with pytest.raises(UsageError, match="ends before a dream can remember it"):
            world.reset(0)
        del gymnasium.registry["ShortToy-v0"]


def alone_frames(seed):
    env = make_pixels(TOY)
    frames = [env.reset(seed=seed)[0], *(env.step(0)[0] for _ in range(K - 1))]
    env.close()
    return frames


def test_a_person_plays_in_a_window():
    pygame = pytest.importorskip("pygame")
    screen, world = WindowScreen(1000), Counter()
    steps = world.step

    def step(action):
        assert pygame.display.get_caption()[0] == f"at {world.count}"
        surface = pygame.display.get_surface()
        assert surface.get_size() == (16, 16)
        assert tuple(surface.get_at((15, 15)))[:3] == (world.count,) * 3
        taken.append(action)
        key = {1: pygame.K_RIGHT, 3: pygame.K_LEFT}.get(len(taken))
        if key is not None:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))
        if len(taken) == 5:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        return steps(action)

    taken = []
    world.step = step
    assert play(world, Person(world.keys), screen, None, 0) == Played(5, [11.0], 0.0)
    assert taken == [0, 1, 0, 10, 0]
    screen.close()
    assert not pygame.display.get_init()


def test_panels_lie_side_by_side_in_a_window_and_its_title():
    pygame = pytest.importorskip("pygame")
    screen = WindowScreen(1000)
    panels = [Panel(np.full((64, 64, 3), value, np.uint8), ("name", f"number {value}")) for value in (10, 20)]
    screen.show(panels)
    surface = pygame.display.get_surface()
    assert surface.get_size() == (2 * (64 + GAP + 64), 128)
    assert pygame.display.get_caption()[0] == "name, number 10  |  name, number 20"
    assert [surface.get_at((x, 0))[0] for x in (0, 127, 128, 143, 144)] == [10, 10, 0, 0, 20]
    screen.close()


def test_no_screen_is_told(monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(UsageError, match="There is no screen for a window"):
        WindowScreen(15).show(Counter.panels(type("At", (), {"count": 0})))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there may always be a screen")
def test_a_screen_that_nobody_can_see_is_none(monkeypatch):
    """Where there is no display SDL draws into memory without a word."""
    pytest.importorskip("pygame").display.quit()
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="There is no screen for a window"):
        WindowScreen(15).show(Counter.panels(type("At", (), {"count": 0})))


class TestCommand:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path / "home"))

    @pytest.fixture
    def dream(self, tmp_path):
        """A dream of Breakout with an agent and something to draw it with."""
        checkpoint = tiny_checkpoint(decoder=True)
        config = ActorCriticConfig(channels=(4,), down=(False,), lstm_dim=0, frame_stack=2)
        agent = random_weights(ActorCritic(checkpoint.world_model.frame_shape, NUM_ACTIONS, config))
        checkpoint = replace(checkpoint, agent=AgentRecord(to_json(config), dict(agent.state_dict())))
        checkpoint.save(tmp_path / "home" / "Breakout")
        return checkpoint

    def test_videos(self, jedi, dream, tmp_path):
        def record(line, steps, panels, lines):
            code, out, err = jedi(f"play {line} --device cpu --json")
            assert code == 0, err
            told = json.loads(out)
            frames, rate = read(tmp_path / told["record"])
            assert told["steps"] == steps
            assert len(frames) == 1 + steps + len(told["returns"])
            assert frames.shape[1:] == (256 + 8 + 14 * lines, 256 * panels + GAP * (panels - 1), 3)
            return frames, rate, told

        frames, rate, first = record("Breakout --record a/dream.mp4 --steps 12 --horizon 5 --fps 10", 12, 1, 3)
        assert rate == 10
        assert len(first["returns"]) >= 2
        again, *_, told = record("home/Breakout --record b.mp4 --steps 12 --horizon 5 --fps 10", 12, 1, 3)
        assert (again == frames)[:, :256].all()
        assert {**first, "record": "b.mp4"} == told
        other, *_ = record("Breakout --record c.mp4 --steps 12 --horizon 5 --fps 10 --seed 1", 12, 1, 3)
        assert other.shape != frames.shape or (other != frames).any()
        record("Breakout --agent --record d.gif --steps 4", 4, 1, 3)
        record("Breakout --agent --real --record e.mp4 --steps 4", 4, 1, 2)
        record("Breakout --agent --side-by-side --horizon 2 --record f.gif --steps 4", 4, 2, 3)
        real, *_ = record("JEDICatch-v0 --real --record g.mp4 --seed 5 --steps 4", 4, 1, 2)
        world = Reality("JEDICatch-v0", None, 1)
        world.reset(5)
        np.testing.assert_allclose(real[0, :256].mean(axis=(0, 1)), world.panels()[0].picture.mean(axis=(0, 1)), atol=3)

    def test_the_default_length_of_a_video(self, jedi, monkeypatch):
        monkeypatch.setattr("trainers.commands.play.VIDEO_STEPS", 30)
        code, out, _ = jedi("play JEDICatch-v0 --real --record a.mp4 --json")
        assert (code, json.loads(out)["steps"]) == (0, 30)

    def test_a_policy_of_the_library(self, jedi, dream):
        assert jedi("dream Breakout --algo A2C --steps 10 --lanes 2 --episodes 0 --save p.zip")[0] == 0
        code, out, err = jedi("play Breakout --policy p.zip --algo A2C --record a.mp4 --steps 5")
        assert code == 0, err
        assert out.startswith("5 steps; returns of whole episodes: ")
        assert out.endswith("Video: a.mp4\n")

    def test_a_person(self, jedi, dream, monkeypatch):
        pygame = pytest.importorskip("pygame")
        titles, speeds = [], set()

        def tick(clock, fps):
            titles.append(pygame.display.get_caption()[0])
            speeds.add(fps)
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
            if len(titles) == 4:
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))

        monkeypatch.setattr(pygame.time, "Clock", lambda: type("Clock", (), {"tick": tick})())
        code, out, err = jedi("play Breakout --fps 40 --json --device cpu")
        assert code == 0, err
        told = json.loads(out)
        assert (told["record"], len(titles)) == (None, 1 + told["steps"] + len(told["returns"]))
        assert titles[0] == "dream of Breakout, return 0, step 0"
        assert "reward -" in titles[1]
        assert speeds == {40}
        assert not pygame.display.get_init()
        assert jedi("play Breakout --steps 2")[0] == 0
        assert speeds == {40, 15}

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("Breakot", "Did you mean 'Breakout'?"),
            ("Breakot --real", "Did you mean 'Breakout'?"),
            ("Qbert", "There is no dream of 'Qbert'"),
            ("Qbert --real --agent", "There is no dream of 'Qbert'"),
            ("Breakout --fps 0", "--fps is 0"),
            ("Breakout --steps 0", "--steps is 0"),
            ("Breakout --seed -1", "--seed is -1"),
            ("Breakout --horizon 0 --record a.mp4", "horizon is 0"),
            ("Breakout --real --side-by-side", "write one of them"),
            ("Breakout --agent --policy p.zip", "write one of them"),
            ("Breakout --policy p.zip --record a.mp4", "There is no file p.zip"),
            ("Breakout --record a.avi", "Write .mp4 or .gif"),
            ("bare --record a.mp4", "no decoder"),
            ("bare --agent --record a.mp4", "no native agent"),
            ("nameless --real --record a.mp4", "names no real game"),
            ("nameless --side-by-side --record a.mp4", "names no real game"),
        ],
    )
    def test_bad_usage(self, jedi, dream, tmp_path, line, said):
        tiny_checkpoint().save(tmp_path / "bare")
        tiny_checkpoint(game=None).save(tmp_path / "nameless")
        before = sorted(tmp_path.iterdir())
        code, out, err = jedi(f"play {line}")
        assert (code, out) == (2, "")
        assert said in err
        assert sorted(tmp_path.iterdir()) == before

    def test_catch_from_training_to_playing(self, jedi, tmp_path):
        code, _, err = jedi(f"train jedi_env:JEDICatch-v0 --preset tiny --device cpu {MICRO}")
        assert code == 0, err
        run = "runs/jedi_env-jedicatch-v0-tiny-0"
        (score,) = json.loads((tmp_path / run / "scores.json").read_text())
        assert (score["game"], score["protocol"]) == ("jedi_env:JEDICatch-v0", {})
        assert json.loads(jedi(f"info {run}/checkpoint --json")[1])["protocol"] == {
            "life_loss": True,
            "action_meanings": ["NOOP", "LEFT", "RIGHT"],
        }
        code, out, _ = jedi(f"eval {run} --episodes 2 --json --device cpu")
        assert (code, len(json.loads(out)["returns"])) == (0, 2)
        code, _, err = jedi(f"play {run}/checkpoint --agent --side-by-side --record a.mp4 --steps 20")
        assert code == 0, err
        assert len(read(tmp_path / "a.mp4")[0]) > 20

    def test_a_dream_of_another_game_is_found_by_its_name(self, jedi, tmp_path):
        tiny_checkpoint(decoder=True, game="JEDICatch-v0").save(tmp_path / "home" / "JEDICatch-v0")
        code, _, err = jedi("play JEDICatch-v0 --record a.gif --steps 2 --device cpu")
        assert code == 0, err
