"""DIAMOND's published files: their names as their own code gives them, and files that are no such thing."""

import hashlib
import pickle

import pytest
import torch
from torch import nn

from jedi_env import diamond, hub
from jedi_env.checkpoint import Checkpoint
from jedi_env.config_json import from_json
from jedi_env.diamond import AGENT, WORLD_MODEL, load_diamond
from jedi_env.envs.real import make_pixels
from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context
from trainers.agent import ActorCritic, ActorCriticConfig

ACTIONS = 4
# Of all names, sorted, one a line: computed from the state dict of the networks in DIAMOND's public repository.
DIGEST = "4c591b5c5f63f6b04c25c8d0e6dc4cf63a826e941d0e7e143cf1799409842c56"


def both(theirs, ours, *kinds):
    yield from ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in kinds or ("weight", "bias"))


def block(theirs, ours, *, skip=False, attention=False):
    for part in ("norm1.linear", "conv1", "norm2.linear", "conv2"):
        yield from both(f"{theirs}.{part}", f"{ours}.{part}")
    if skip:
        yield from both(f"{theirs}.proj", f"{ours}.skip")
    if attention:
        for part, name in (("norm.norm", "norm"), ("qkv_proj", "qkv"), ("out_proj", "out")):
            yield from both(f"{theirs}.attn.{part}", f"{ours}.attention.{name}")


def denoiser_names():
    theirs, ours = "denoiser.inner_model", "denoiser"
    yield from both(f"{theirs}.noise_emb", f"{ours}.noise_features", "weight")
    yield from both(f"{theirs}.act_emb.0", f"{ours}.action_embedding", "weight")
    for place in (0, 2):
        yield from both(f"{theirs}.cond_proj.{place}", f"{ours}.condition_mlp.{place}")
    yield from both(f"{theirs}.conv_in", f"{ours}.conv_in")
    yield from both(f"{theirs}.norm_out.norm", f"{ours}.norm_out")
    yield from both(f"{theirs}.conv_out", f"{ours}.conv_out")
    theirs, ours = f"{theirs}.unet", f"{ours}.unet"
    for level in range(4):
        for i in range(2):
            yield from block(f"{theirs}.d_blocks.{level}.resblocks.{i}", f"{ours}.down_blocks.{level}.{i}")
        for i in range(3):
            yield from block(f"{theirs}.u_blocks.{level}.resblocks.{i}", f"{ours}.up_blocks.{level}.{i}", skip=True)
    for i in range(2):
        yield from block(f"{theirs}.mid_blocks.resblocks.{i}", f"{ours}.middle.{i}", attention=True)
    for i in (1, 2, 3):
        yield from both(f"{theirs}.downsamples.{i}.conv", f"{ours}.downsamples.{i}.conv")
        yield from both(f"{theirs}.upsamples.{i}.conv", f"{ours}.upsamples.{i}.conv")


def reward_end_names():
    theirs, ours = "rew_end_model", "reward_end"
    yield from both(f"{theirs}.act_emb", f"{ours}.action_embedding", "weight")
    yield from both(f"{theirs}.lstm", f"{ours}.lstm", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    yield from both(f"{theirs}.head.0", f"{ours}.head.0")
    yield from both(f"{theirs}.head.2", f"{ours}.head.2", "weight")
    theirs = f"{theirs}.encoder"
    yield from both(f"{theirs}.conv_in", f"{ours}.conv_in")
    for i in range(2):
        for level in range(4):
            yield from block(f"{theirs}.blocks.{level}.resblocks.{i}", f"{ours}.stages.{level}.{i}")
        yield from block(f"{theirs}.blocks.4.resblocks.{i}", f"{ours}.middle.{i}", attention=True)
    for i in (1, 2, 3):
        yield from both(f"{theirs}.downsamples.{i}.conv", f"{ours}.downsamples.{i}.conv")


def agent_names():
    theirs, ours = "actor_critic.encoder.encoder", "agent.trunk"
    yield from both(f"{theirs}.0", f"{ours}.0")
    for i in (1, 3, 5, 7):
        yield from both(f"{theirs}.{i}.f.0.norm", f"{ours}.{i}.norm")
        yield from both(f"{theirs}.{i}.f.2", f"{ours}.{i}.conv")
    yield from both(f"{theirs}.5.skip_projection", f"{ours}.5.skip")
    yield from both("actor_critic.lstm", "agent.lstm", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
    yield from both("actor_critic.critic_linear", "agent.critic")
    yield from both("actor_critic.actor_linear", "agent.actor")


NAMES = dict([*denoiser_names(), *reward_end_names(), *agent_names()])


def bank(size=2):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(size, 4, 3, 64, 64, generator=generator) * 2 - 1
    return Context(frames, torch.randint(0, ACTIONS, (size, 3), generator=generator))


def networks():
    model = WorldModel(ACTIONS, WORLD_MODEL)
    agent = ActorCritic(model.frame_shape, ACTIONS, from_json(ActorCriticConfig, AGENT, "agent"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*model.parameters(), *agent.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval(), agent.eval()


@pytest.fixture(scope="module")
def ours():
    return networks()


@pytest.fixture(scope="module")
def theirs(ours):
    """The same weights under their names."""
    model, agent = ours
    tensors = {**model.state_dict(), **{f"agent.{name}": tensor for name, tensor in agent.state_dict().items()}}
    assert set(NAMES.values()) == set(tensors)
    return {name: tensors[our] for name, our in NAMES.items()}


@pytest.fixture(scope="module")
def published(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("diamond") / "Breakout.pt"
    torch.save(theirs, path)
    return path


class TestNames:
    def test_they_are_those_of_their_code(self):
        assert hashlib.sha256("\n".join(sorted(NAMES)).encode()).hexdigest() == DIGEST

    def test_no_two_become_one(self):
        assert len(set(NAMES.values())) == len(NAMES) == 372


class TestLoading:
    def test_it_dreams_the_same(self, ours, published):
        model, _ = ours
        checkpoint = load_diamond(published, contexts=bank())
        assert isinstance(checkpoint, Checkpoint)
        key, actions = lane_keys([5, 6]), torch.tensor([1, 3])
        outcomes = []
        for world in (model, checkpoint.world_model):
            state = world.begin(bank())
            outcomes.append(world.advance(state, actions, LaneNoise(key, torch.zeros(2, dtype=torch.int64))))
        flat = [[], []]
        for kept, parts in zip(flat, outcomes, strict=True):
            for part in parts:
                part.map(lambda tensor, kept=kept: kept.append(tensor) or tensor)
        assert len(flat[0]) == 8
        assert all(torch.equal(one, other) for one, other in zip(*flat, strict=True))

    def test_the_agent_acts_the_same(self, ours, published):
        _, agent = ours
        record = load_diamond(str(published), contexts=bank()).agent
        twin = ActorCritic((3, 64, 64), ACTIONS, from_json(ActorCriticConfig, record.config, "agent"))
        twin.load_state_dict(record.tensors)
        for one, other in zip(agent.state_dict().values(), twin.state_dict().values(), strict=True):
            assert torch.equal(one, other)

    def test_what_is_known_of_it(self, published):
        checkpoint = load_diamond(published, contexts=bank())
        assert (checkpoint.game, checkpoint.horizon) == ("Breakout", None)
        assert checkpoint.provenance == {"source": "DIAMOND, Breakout.pt"}
        assert checkpoint.world_model.frame_shape == (3, 64, 64)
        assert not checkpoint.world_model.training
        assert not any(parameter.requires_grad for parameter in checkpoint.world_model.parameters())
        assert load_diamond(published, contexts=bank(), game="Pong").game == "Pong"

    def test_it_can_be_saved_and_dreamt(self, published, tmp_path):
        load_diamond(published, contexts=bank()).save(tmp_path / "dream")
        env = DreamVectorEnv(2, checkpoint=tmp_path / "dream", obs_type="rgb", device="cpu", dtype="float32")
        assert env.reset(seed=0)[0].shape == (2, 64, 64, 12)
        assert env.step([0, 1])[0].dtype == "uint8"

    def test_loading_draws_no_random_numbers(self, published):
        torch.manual_seed(3)
        load_diamond(published, contexts=bank())
        after = torch.rand(3)
        torch.manual_seed(3)
        assert torch.equal(after, torch.rand(3))

    def test_without_an_agent(self, theirs, tmp_path):
        torch.save({name: tensor for name, tensor in theirs.items() if "actor" not in name}, tmp_path / "a.pt")
        checkpoint = load_diamond(tmp_path / "a.pt", contexts=bank())
        assert (checkpoint.agent, checkpoint.game) == (None, None)

    def test_a_path_may_begin_at_home(self, published, monkeypatch):
        monkeypatch.setenv("HOME", str(published.parent))
        assert load_diamond("~/Breakout.pt", contexts=bank()).game == "Breakout"

    def test_an_unknown_game_is_refused(self, published):
        with pytest.raises(UsageError, match=r"game is 'breakout', which is none.*Did you mean 'Breakout'\?"):
            load_diamond(published, contexts=bank(), game="breakout")

    def test_a_game_is_downloaded(self, published, monkeypatch):
        asked = []

        def download(reference, names):
            asked.append((reference, names))
            folder = published.parent / "hub"
            (folder / "atari_100k/models").mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_bytes(published.read_bytes())
            return folder

        monkeypatch.setattr(hub, "download", download)
        assert load_diamond("Breakout", contexts=bank()).game == "Breakout"
        assert asked == [("hub://eloialonso/diamond", ["atari_100k/models/Breakout.pt"])]


class TestContexts:
    def test_they_are_played_if_none_are_given(self, published, monkeypatch):
        checkpoint = load_diamond(published)
        frames, actions = checkpoint.contexts.frames, checkpoint.contexts.actions
        assert (frames.shape, actions.shape) == ((64, 4, 3, 64, 64), (64, 3))
        assert ((actions >= 0) & (actions < ACTIONS)).all()
        assert len(set(actions.flatten().tolist())) == ACTIONS
        # Real: the first of them is what the game shows when the same actions are played.
        env = make_pixels("Breakout")
        generator = torch.Generator().manual_seed(0)
        shown = [torch.from_numpy(env.reset(seed=0)[0])]
        taken = []
        while len(shown) < 12:
            taken.append(int(torch.randint(ACTIONS, (), generator=generator)))
            shown.append(torch.from_numpy(env.step(taken[-1])[0]))
        env.close()
        assert actions[0].tolist() == taken[-3:]
        assert torch.equal(frames[0], checkpoint.world_model.encode(torch.stack(shown[-4:])))
        assert len({frame.sum().item() for frame in frames[:, -1]}) > 10

    def test_the_right_game_is_asked_for(self, published, theirs, tmp_path):
        torch.save(theirs, tmp_path / "nameless.pt")
        with pytest.raises(UsageError, match="Whose checkpoint is it"):
            load_diamond(tmp_path / "nameless.pt")
        with pytest.raises(UsageError, match=r"4 actions, and Pong has the space Discrete\(6\)"):
            load_diamond(published, game="Pong")

    @pytest.mark.parametrize(
        "contexts",
        [
            Context(torch.zeros(1, 4, 16, 8, 8), torch.zeros(1, 3, dtype=torch.int64)),
            Context(torch.zeros(1, 2, 3, 64, 64), torch.zeros(1, 1, dtype=torch.int64)),
            Context(torch.zeros(1, 4, 3, 64, 64), torch.zeros(1, 4, dtype=torch.int64)),
            Context(torch.zeros(1, 4, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 3, dtype=torch.int64)),
            Context(torch.zeros(0, 4, 3, 64, 64), torch.zeros(0, 3, dtype=torch.int64)),
        ],
    )
    def test_wrong_ones_are_refused(self, published, contexts):
        with pytest.raises(UsageError, match=r"give at least one: float32 \('N', 4, 3, 64, 64\)"):
            load_diamond(published, contexts=contexts)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda frames, actions: (frames, actions + ACTIONS), "actions that are not from 0 to 3"),
            (lambda frames, actions: (frames, actions - ACTIONS), "actions that are not from 0 to 3"),
            (lambda frames, actions: (frames * 50, actions), "frames beyond the model's range, -1.0 to 1.0"),
            (lambda frames, actions: (frames * torch.nan, actions), "frames beyond the model's range, -1.0 to 1.0"),
        ],
    )
    def test_wrong_numbers_in_them_are_refused(self, published, change, sentence):
        with pytest.raises(UsageError, match=f"contexts= has {sentence}"):
            load_diamond(published, contexts=Context(*change(bank().frames, bank().actions)))


class Trap:
    """What a malicious file may hold: code that runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code in the file was run",)


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


WEIGHT = "denoiser.inner_model.conv_out.weight"
AGENTS = "actor_critic.actor_linear.bias"


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda tensors: without(tensors, WEIGHT), r"lacks denoiser.conv_out.weight"),
            (lambda tensors: {**tensors, "denoiser.inner_model.more": torch.zeros(1)}, r"has unknown denoiser.more"),
            (lambda tensors: {**tensors, "optimizer": torch.zeros(1)}, r"has unknown optimizer"),
            (lambda tensors: {**tensors, WEIGHT: torch.zeros(3, 64, 1, 1)}, r"has other shapes of denoiser.conv_out"),
            (lambda tensors: {**tensors, WEIGHT: tensors[WEIGHT] * torch.nan}, r"not finite: .*conv_out.weight"),
            (lambda tensors: {**tensors, AGENTS: tensors[AGENTS] / 0}, r"not finite: .*actor_linear.bias"),
            (lambda tensors: {**tensors, WEIGHT: tensors[WEIGHT].to_sparse()}, r"something else than dense float"),
            (lambda tensors: {**tensors, WEIGHT: tensors[WEIGHT].long()}, r"something else than dense float"),
            (lambda tensors: {**tensors, WEIGHT: "weights"}, r"something else than dense float"),
            (lambda tensors: {"agent": tensors}, r"something else than dense float"),
            (lambda tensors: list(tensors.values()), r"something else than dense float"),
            (lambda tensors: {}, r"no action embedding"),
            (lambda tensors: nn.Linear(2, 2).state_dict(), r"no action embedding"),
            (lambda tensors: {**tensors, WEIGHT: Trap()}, r"could not be read.*nothing in it was run"),
            (lambda tensors: nn.Linear(2, 2), r"could not be read.*nothing in it was run"),
        ],
    )
    def test_each_is_refused(self, theirs, tmp_path, change, sentence):
        torch.save(change(theirs), tmp_path / "Breakout.pt")
        with pytest.raises(CheckpointError, match=sentence):
            load_diamond(tmp_path / "Breakout.pt", contexts=bank())

    @pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(Trap()), pickle.dumps({"a": Trap()})])
    def test_what_torch_did_not_write(self, tmp_path, content):
        (tmp_path / "Breakout.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="nothing in it was run"):
            load_diamond(tmp_path / "Breakout.pt", contexts=bank())

    def test_a_truncated_one(self, published, tmp_path):
        (tmp_path / "Breakout.pt").write_bytes(published.read_bytes()[:100_000])
        with pytest.raises(CheckpointError, match="could not be read"):
            load_diamond(tmp_path / "Breakout.pt", contexts=bank())

    @pytest.mark.parametrize("thing", [None, 3])
    def test_neither_a_path_nor_a_name(self, thing):
        with pytest.raises(UsageError, match=f"path_or_game is {thing}: write a file, or one of"):
            load_diamond(thing)

    @pytest.mark.parametrize("name", ["nowhere.pt", "Brakeout"])
    def test_neither_a_file_nor_a_game(self, name):
        with pytest.raises(UsageError, match=r"neither a file nor one of the Atari100k games"):
            load_diamond(name)


def test_their_settings_are_what_the_paper_and_their_code_say():
    assert diamond.WORLD_MODEL.context_length == 4
    assert (diamond.WORLD_MODEL.sampler.steps, diamond.WORLD_MODEL.sampler.order) == (3, 1)
    denoiser = diamond.WORLD_MODEL.denoiser
    assert (denoiser.sigma_data, denoiser.offset_noise, denoiser.cond_channels) == (0.5, 0.3, 256)
