"""Lambda-returns against n-step sums, rollouts against one lane at a time, gradients by hand, and learning itself."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.actions import DiscreteActions
from jedi_env.dream import Dream
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise
from jedi_env.types import Context, ModelState, Prediction
from tests.trainers.fakes import ACTIONS, MICRO_MODEL, random_weights
from trainers.agent import ActorCritic, ActorCriticConfig
from trainers.distributions import Categorical
from trainers.fit_agent import FitAgentConfig, Rollout, fit_agent, lambda_returns, loss, rollout, think_again
from trainers.optim import Optim, OptimConfig

# Lambda-returns

NUMBERS = st.floats(-5, 5, width=32)
UNIT = st.floats(0, 1)


@st.composite
def lanes(draw):
    """Rewards, next values, ends and truncations of one lane."""
    size = draw(st.integers(1, 8))

    def row(of):
        return draw(st.lists(of, min_size=size, max_size=size))

    rare = st.sampled_from([False, False, False, True])
    return row(NUMBERS), row(rare), row(rare), row(NUMBERS)


def n_step(rewards, terminated, next_values, t, n, gamma):
    """The return from ``t`` that looks at n rewards and then believes the value, unless nothing follows."""
    total = sum(gamma**k * rewards[t + k] for k in range(n))
    return total + (0.0 if terminated[t + n - 1] else gamma**n * next_values[t + n - 1])


def slow_lambda_return(rewards, terminated, truncated, next_values, t, gamma, lambda_):
    """The mixture of n-step returns that gives the lambda-return its name (Sutton and Barto, eq. 12.2 and 12.3)."""
    boundary = next(i for i in range(t, len(rewards)) if terminated[i] or truncated[i] or i == len(rewards) - 1)
    longest = boundary - t + 1
    mixture = sum(
        (1 - lambda_) * lambda_ ** (n - 1) * n_step(rewards, terminated, next_values, t, n, gamma)
        for n in range(1, longest)
    )
    return mixture + lambda_ ** (longest - 1) * n_step(rewards, terminated, next_values, t, longest, gamma)


def batch(rows):
    """Several lanes as the tensors that the trainer has."""
    rewards, terminated, truncated, values = zip(*rows, strict=True)
    return torch.tensor(rewards), torch.tensor(terminated), torch.tensor(truncated), torch.tensor(values)


@given(lane=lanes(), gamma=UNIT, lambda_=UNIT)
def test_lambda_returns_are_a_mixture_of_n_step_returns(lane, gamma, lambda_):
    quiet = ([0.0] * len(lane[0]), [False] * len(lane[0]), [False] * len(lane[0]), [0.0] * len(lane[0]))
    ours = lambda_returns(*batch([quiet, lane]), gamma, lambda_)
    slow = [slow_lambda_return(*lane, t, gamma, lambda_) for t in range(len(lane[0]))]
    assert ours[1].tolist() == pytest.approx(slow, abs=1e-3)
    assert ours[0].tolist() == quiet[0]


@given(lane=lanes(), gamma=UNIT)
def test_lambda_0_is_one_step_temporal_difference(lane, gamma):
    rewards, terminated, _, values = lane
    expected = [r + gamma * v * (not end) for r, end, v in zip(rewards, terminated, values, strict=True)]
    assert lambda_returns(*batch([lane]), gamma, 0.0)[0].tolist() == pytest.approx(expected, abs=1e-4)


@given(lane=lanes(), gamma=UNIT)
def test_lambda_1_is_monte_carlo_up_to_the_boundary(lane, gamma):
    rewards, terminated, truncated, values = lane
    expected, following = [], values[-1]
    for t in reversed(range(len(rewards))):
        if truncated[t]:
            following = values[t]
        following = rewards[t] + (0.0 if terminated[t] else gamma * following)
        expected.insert(0, following)
    assert lambda_returns(*batch([lane]), gamma, 1.0)[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_nothing_behind_an_end_or_a_truncation_is_seen():
    rewards, values = torch.ones(1, 4), torch.full((1, 4), 10.0)
    ends, none = torch.tensor([[False, True, False, False]]), torch.zeros(1, 4, dtype=torch.bool)
    for terminated, truncated in ((ends, none), (none, ends)):
        before = lambda_returns(rewards, terminated, truncated, values, 0.9, 0.8)
        changed = lambda_returns(
            rewards + torch.tensor([0, 0, 7, 7]), terminated, truncated, values - torch.tensor([0, 0, 7, 7]), 0.9, 0.8
        )
        assert torch.equal(before[:, :2], changed[:, :2])
        assert not torch.equal(before[:, 2:], changed[:, 2:])


# A dream that can be followed by hand

K = 3


class Clock:
    """A fake: the first channel counts from the context's own number on; it ends at 4; the last action pays its number.

    The second channel carries what no agent could guess: noise.
    """

    frame_shape = (2, 2, 2)
    context_length = K

    def begin(self, context: Context) -> ModelState:
        return ModelState(context.frames, context.actions, torch.zeros(len(context), 1), torch.zeros(len(context), 1))

    def advance(
        self, state: ModelState, actions: Tensor, noise: LaneNoise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        frame = torch.stack((state.frames[:, -1, 0] + 1, noise.normal((2, 2))), dim=1)
        terminated = frame[:, 0, 0, 0] >= 4
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), dim=1),
            torch.cat((state.actions[:, 1:], actions[:, None]), dim=1),
            state.hidden,
            state.cell,
        )
        reward = actions.float() - 1
        return after, Prediction(reward, terminated, torch.full((len(actions), 3), 1 / 3), terminated.float())


def clock_contexts():
    """Five contexts that have between 1 and 5 steps to go."""
    newest = torch.arange(-1.0, 4.0)
    frames = torch.stack([newest - K + 1 + k for k in range(K)], dim=1)  # (5, K)
    frames = frames[:, :, None, None, None].expand(5, K, 2, 2, 2).clone()
    frames[:, :, 1] = torch.randn(5, K, 2, 2, generator=torch.Generator().manual_seed(0))
    return Context(frames, torch.zeros(5, K - 1, dtype=torch.int64))


class Recorded(Dream):
    """A dream that remembers all frames that every lane began with or arrived at."""

    def reset(self, seeds, *, mask=None, contexts=None, context=None):
        super().reset(seeds, mask=mask, contexts=contexts, context=context)
        if mask is None:
            self.arrivals, self.begun = [], [None]
        self.begun[-1] = self.state.model.frames.clone()

    def step(self, actions, restart=None):
        transition = super().step(actions, restart)
        self.arrivals.append(self.state.model.frames[:, -1].clone())
        self.begun.append(None)
        return transition


def clock_agent(lstm_dim, stack):
    config = ActorCriticConfig(channels=(4,), down=(False,), lstm_dim=lstm_dim, frame_stack=stack)
    return random_weights(ActorCritic(Clock.frame_shape, ACTIONS, config), 3, scale=0.5)


def follow(agent, dream, transitions, lane):
    """What the agent thinks along one lane, one observation after the other, from the beginning of each dream."""
    stack = agent.config.frame_stack
    seen, memory, opinions, afters = [], None, [], []

    def look(frame):
        nonlocal memory
        seen.append(frame)
        if len(seen) >= stack:
            opinion = agent(torch.cat(seen[-stack:])[None], memory)
            memory = opinion.memory
            return opinion
        return None

    def begin(frames):
        nonlocal memory
        seen.clear()
        memory = agent.initial(1, "cpu")
        return [look(frame) for frame in frames][-1]

    now = begin(dream.begun[0][lane])
    for t, arrival in enumerate(dream.arrivals):
        opinions.append(now)
        now = look(arrival[lane])
        afters.append(now)
        if transitions.terminated[lane, t] or transitions.truncated[lane, t]:
            now = begin(dream.begun[t + 1][lane])
    return opinions, afters


@pytest.mark.parametrize(("lstm_dim", "stack"), [(6, 1), (6, 2), (0, 1), (0, 3), (6, 3)])
@pytest.mark.parametrize("horizon", [None, 2])
def test_a_rollout_is_what_one_lane_after_the_other_lives_through(lstm_dim, stack, horizon):
    agent = clock_agent(lstm_dim, stack)
    dream = Recorded(Clock(), clock_contexts(), horizon=horizon)
    dream.reset(range(6))
    with torch.no_grad():
        imagined = rollout(dream, agent, 7, torch.Generator().manual_seed(0))
    assert imagined.terminated.any(dim=0).sum() >= 3
    assert imagined.truncated.any() == (horizon is not None)
    for lane in range(6):
        with torch.no_grad():
            opinions, afters = follow(agent, dream, imagined, lane)
        assert torch.allclose(imagined.logits[lane], torch.cat([o.logits for o in opinions]), atol=1e-5)
        assert torch.allclose(imagined.values[lane], torch.cat([o.value for o in opinions]), atol=1e-5)
        assert torch.allclose(imagined.next_values[lane], torch.cat([o.value for o in afters]), atol=1e-5)
    assert torch.equal(imagined.rewards, imagined.actions.float() - 1)


def test_the_shapes_of_a_rollout():
    dream = Dream(Clock(), clock_contexts(), horizon=None)
    dream.reset(range(6))
    imagined = rollout(dream, clock_agent(6, 1), 4, torch.Generator().manual_seed(0))
    shapes = {field.name: tuple(getattr(imagined, field.name).shape) for field in fields(Rollout)}
    assert shapes.pop("logits") == (6, 4, ACTIONS)
    assert shapes.pop("observations") == (6, 4, *Clock.frame_shape)
    assert shapes.pop("memories") == (6, 4, 2, 6)
    assert set(shapes.values()) == {(6, 4)}
    gradient = {field.name for field in fields(Rollout) if getattr(imagined, field.name).requires_grad}
    assert gradient == {"logits", "values"}


def test_gradient_flows_back_through_the_memory_but_not_over_a_beginning():
    agent = clock_agent(6, 1)
    memories = []
    agent.register_forward_hook(lambda module, given, opinion: memories.append(opinion.memory))
    dream = Dream(Clock(), clock_contexts()[0], horizon=None)  # five steps to go
    dream.reset([0])
    imagined = rollout(dream, agent, 8, torch.Generator().manual_seed(0))
    assert imagined.terminated[0].tolist() == [False] * 4 + [True] + [False] * 3
    memories = [memory for memory in memories if memory.requires_grad]  # the context is lived through without gradient
    after = [0, 1, 2, 3, 4, 6, 7, 8]  # of each opinion in the rollout; number 5 is that of the last frame of a dream

    def depends(later, earlier):
        (slope,) = torch.autograd.grad(
            imagined.values[0, later], memories[after[earlier]], retain_graph=True, allow_unused=True
        )
        return slope is not None and bool((slope != 0).any())

    assert [depends(later, earlier) for later, earlier in ((1, 0), (4, 0), (4, 3), (7, 5))] == [True] * 4
    assert [depends(later, earlier) for later, earlier in ((5, 4), (5, 0), (7, 4), (2, 3))] == [False] * 4


# The loss


def made_up_rollout(seed=0, b=3, t=4):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return Rollout(
        observations=normal(b, t, 1, 2, 2),
        memories=normal(b, t, 2, 0),
        actions=torch.randint(ACTIONS, (b, t), generator=generator),
        rewards=normal(b, t),
        terminated=torch.rand(b, t, generator=generator) < 0.2,
        truncated=torch.rand(b, t, generator=generator) < 0.2,
        logits=normal(b, t, ACTIONS).requires_grad_(),
        values=normal(b, t).requires_grad_(),
        next_values=normal(b, t),
    )


@pytest.mark.parametrize("normalise", [False, True])
def test_the_gradients_of_the_loss_by_hand(normalise):
    """Policy gradient with a baseline, squared error to a fixed target, and entropy: nothing else moves anything."""
    config = FitAgentConfig(value_weight=0.7, entropy_weight=0.3, normalise_advantages=normalise)
    imagined = made_up_rollout()
    total, logged = loss(imagined, imagined.logits, imagined.values, Categorical(DiscreteActions(ACTIONS)), config)
    total.backward()
    with torch.no_grad():
        returns = lambda_returns(
            imagined.rewards, imagined.terminated, imagined.truncated, imagined.next_values, 0.985, 0.95
        )
        n = returns.numel()
        advantages = returns - imagined.values
        scale = (advantages**2).mean().sqrt() if normalise else 1.0
        probs = imagined.logits.softmax(-1)
        chosen = torch.nn.functional.one_hot(imagined.actions, ACTIONS)
        entropy = -(probs * probs.log()).sum(-1, keepdim=True)
        policy = (probs - chosen) * (advantages / scale)[..., None] / n
        spread = probs * (probs.log() + entropy) / n  # minus the gradient of the entropy
    assert torch.allclose(imagined.logits.grad, policy + 0.3 * spread, atol=1e-6)
    assert torch.allclose(imagined.values.grad, 0.7 * 2 * -advantages / n, atol=1e-6)
    assert logged["entropy"].item() == pytest.approx(entropy.mean().item(), abs=1e-6)
    assert logged["loss_critic"].item() == pytest.approx((advantages**2).mean().item(), rel=1e-5)
    assert logged["dream_reward"].item() == pytest.approx(imagined.rewards.mean().item(), abs=1e-6)
    assert logged["returns"].item() == pytest.approx(returns.mean().item(), abs=1e-6)
    assert not any(value.requires_grad for value in logged.values())


def test_normalising_does_not_blow_up_what_is_nearly_nothing():
    imagined = made_up_rollout()
    zero = torch.zeros_like(imagined.rewards)
    tiny = replace(imagined, rewards=zero + 1e-5, next_values=zero, values=zero.clone().requires_grad_())
    config = FitAgentConfig(normalise_advantages=True, entropy_weight=0.0, value_weight=0.0)
    total, _ = loss(tiny, tiny.logits, tiny.values, Categorical(DiscreteActions(ACTIONS)), config)
    total.backward()
    assert tiny.logits.grad.abs().max() < 1e-2


def test_in_a_later_pass_a_probability_that_moved_by_a_fifth_earns_no_more():
    """The ratio to the policy that dreamed is clipped, as in PPO."""
    config = FitAgentConfig(value_weight=0.0, entropy_weight=0.0)
    two = Categorical(DiscreteActions(2))
    zero = torch.zeros(4, 1)
    never = zero.bool()
    dreamed = replace(
        made_up_rollout(b=4, t=1),
        actions=zero.long(),
        rewards=torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]),
        terminated=~never,
        truncated=never,
        logits=torch.zeros(4, 1, 2),  # each action was drawn with probability 1/2
        values=zero,
        next_values=zero,
    )
    chance = torch.tensor([0.59, 0.61, 0.41, 0.39])
    logits = torch.stack((chance.log(), (1 - chance).log()), dim=-1)[:, None].requires_grad_()
    total, logged = loss(dreamed, logits, zero + 5, two, config)  # what it values by now changes no advantage
    total.backward()
    assert logged["clipped"] == 0.5
    assert total.item() == pytest.approx(-(1.18 + 1.2 - 0.82 - 0.8) / 4, abs=1e-6)
    slope = 2 * chance * (1 - chance) / 4  # of the ratio along the first logit, in a mean of four
    expected = torch.stack((-slope[0], zero[0, 0], slope[2], zero[0, 0]))
    assert torch.allclose(logits.grad[:, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("lstm_dim", "stack"), [(6, 1), (0, 3)])
def test_thinking_again_with_the_same_weights_changes_nothing(lstm_dim, stack):
    agent = clock_agent(lstm_dim, stack)
    dream = Dream(Clock(), clock_contexts(), horizon=None)
    dream.reset(range(6))
    imagined = rollout(dream, agent, 7, torch.Generator().manual_seed(0))
    assert imagined.terminated.any()
    logits, values = think_again(agent, imagined)
    torch.testing.assert_close(logits, imagined.logits)
    torch.testing.assert_close(values, imagined.values)
    assert logits.requires_grad
    assert values.requires_grad


def micro_dream():
    torch.manual_seed(0)
    model = random_weights(WorldModel(ACTIONS, MICRO_MODEL)).eval()
    pixels = torch.randint(0, 256, (4, 2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frames = model.encode(pixels)
    return model, Dream(model, Context(frames, torch.zeros(4, 1, dtype=torch.int64)), horizon=None)


def test_no_gradient_and_no_change_reaches_the_world_model():
    model, dream = micro_dream()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    agent = ActorCritic(model.frame_shape, ACTIONS, ActorCriticConfig((4,), (False,), 8, 1))
    untrained = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    config = FitAgentConfig(batch=4, horizon=6)
    optim = Optim({"agent": (agent, config.optim)})
    logged = list(fit_agent(agent, optim, dream, config, 3, torch.Generator().manual_seed(0)))
    assert len(logged) == optim.updates == 3
    assert {"loss_actor", "loss_critic", "entropy", "grad_norm_agent"} <= set(logged[0])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert agent.training
    assert any(not torch.equal(tensor, untrained[name]) for name, tensor in agent.state_dict().items())


@pytest.mark.parametrize("passes", [1, 3])
def test_it_dreams_as_much_as_it_says_and_anew_each_time(monkeypatch, passes):
    _, dream = micro_dream()
    starts, steps = [], []
    reset, step = dream.reset, dream.step
    monkeypatch.setattr(dream, "reset", lambda seeds, mask=None: (starts.append(seeds), reset(seeds, mask=mask)))
    monkeypatch.setattr(dream, "step", lambda actions: (steps.append(len(actions)), step(actions))[1])
    agent = ActorCritic(dream.model.frame_shape, ACTIONS, ActorCriticConfig((4,), (False,), 8, 1))
    config = FitAgentConfig(batch=5, horizon=6, passes=passes)
    optim = Optim({"agent": (agent, config.optim)})
    for _ in fit_agent(agent, optim, dream, config, 4, torch.Generator().manual_seed(0)):
        pass
    assert steps == [5] * 6 * 4
    assert optim.updates == passes * 4
    assert len({seed for start in starts if start is not None for seed in start}) == 5 * 4


def test_the_same_generator_gives_the_same_agent():
    def fitted(seed):
        _, dream = micro_dream()
        torch.manual_seed(7)
        agent = ActorCritic(dream.model.frame_shape, ACTIONS, ActorCriticConfig((4,), (False,), 8, 1))
        config = FitAgentConfig(batch=4, horizon=3)
        optim = Optim({"agent": (agent, config.optim)})
        for _ in fit_agent(agent, optim, dream, config, 2, torch.Generator().manual_seed(seed)):
            pass
        return torch.cat([parameter.flatten() for parameter in agent.parameters()])

    assert torch.equal(fitted(1), fitted(1))
    assert not torch.equal(fitted(1), fitted(2))


# Does it learn?


class Bandit(Clock):
    """A fake: the channel that is lit, 0, 1 or 2, is the action that pays; every other costs. Never ends.

    With ``delay`` it pays one step later.
    """

    frame_shape = (ACTIONS, 2, 2)

    def __init__(self, delay: bool) -> None:
        self.delay = delay

    def advance(
        self, state: ModelState, actions: Tensor, noise: LaneNoise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        wanted = state.frames[:, -2 if self.delay else -1, :, 0, 0].argmax(dim=1)
        done = state.actions[:, -1] if self.delay else actions
        reward = torch.where(done == wanted, 1.0, -1.0)
        frame = torch.eye(ACTIONS)[(noise.uniform() * ACTIONS).long(), :, None, None].expand(-1, -1, 2, 2)
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), dim=1),
            torch.cat((state.actions[:, 1:], actions[:, None]), dim=1),
            state.hidden,
            state.cell,
        )
        never = torch.zeros(len(actions))
        return after, Prediction(reward, never.bool(), torch.full((len(actions), 3), 1 / 3), never)


@pytest.mark.parametrize(
    ("delay", "lstm_dim", "passes", "updates"),
    [(False, 0, 1, 60), (False, 64, 1, 60), (True, 64, 1, 60), (False, 0, 3, 20), (True, 64, 3, 40)],
)
def test_it_learns_which_action_pays(delay, lstm_dim, passes, updates):
    torch.manual_seed(0)
    shown = torch.eye(ACTIONS)[:, None, :, None, None].expand(-1, K, -1, 2, 2).clone()
    dream = Dream(Bandit(delay), Context(shown, torch.zeros(3, K - 1, dtype=torch.int64)), horizon=None)
    agent = ActorCritic(Bandit.frame_shape, ACTIONS, ActorCriticConfig((16,), (False,), lstm_dim, 1))
    settings = OptimConfig(lr=1e-2, weight_decay=0.0, max_grad_norm=10.0, warmup=0)
    config = FitAgentConfig(batch=32, horizon=8, gamma=0.8, entropy_weight=0.02, optim=settings, passes=passes)
    optim = Optim({"agent": (agent, config.optim)})
    generator = torch.Generator().manual_seed(0)
    rewards = [step["dream_reward"].item() for step in fit_agent(agent, optim, dream, config, updates, generator)]
    assert rewards[0] == pytest.approx(-1 / 3, abs=0.2)
    assert sum(rewards[-5:]) / 5 > 0.75  # a delayed reward of the first step cannot be had: 5/6 is the most
