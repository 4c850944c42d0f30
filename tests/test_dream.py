"""Dream on a fake model whose every number can be checked by hand, and on a real one."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.dream import Dream
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.sampler import SamplerConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.noise import LaneNoise
from jedi_env.types import Context, DreamState, ModelState, Prediction, Record, Transition

K, A, BANK = 3, 4, 7
SEEDS = st.lists(st.integers(0, 50), min_size=1, max_size=6)


class Counting:
    """A fake: a frame is the last one plus the action plus noise; hidden counts the steps; it ends when told to.

    Every frame carries, in its second channel, which context of the bank the dream began from.
    """

    frame_shape = (2, 1, 2)
    context_length = K

    def __init__(self, end_chance: float = 0.0) -> None:
        self.end_chance = end_chance
        self.steps: list[int | None] = []
        self.dtypes: list[torch.dtype] = []

    def begin(self, context: Context) -> ModelState:
        hidden = torch.zeros(len(context), 1)
        return ModelState(context.frames, context.actions, hidden, hidden)

    def advance(
        self, state: ModelState, actions: Tensor, noise: LaneNoise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        self.steps.append(steps)
        self.dtypes.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        frame = state.frames[:, -1].clone()
        frame[:, :1] += actions[:, None, None, None] + noise.normal((1, 1, 2))
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), dim=1),
            torch.cat((state.actions[:, 1:], actions[:, None]), dim=1),
            state.hidden + 1,
            state.cell,
        )
        ends = torch.full((len(actions),), self.end_chance)
        reward = actions.float() - 1
        return after, Prediction(reward, noise.uniform() < ends, torch.full((len(actions), 3), 1 / 3), ends)


def bank(size: int = BANK, offset: int = 0) -> Context:
    frames = torch.zeros(size, K, 2, 1, 2)
    frames[:, :, 0] = torch.arange(-K, 0).view(K, 1, 1)  # oldest first
    frames[:, :, 1] = (offset + torch.arange(size)).view(-1, 1, 1, 1)
    return Context(frames, torch.zeros(size, K - 1, dtype=torch.int64))


def fake_dream(lanes: int = 3, *, end_chance: float = 0.0, horizon: int | None = 5, seed: int = 0) -> Dream:
    dream = Dream(Counting(end_chance), bank(), horizon=horizon)
    dream.reset(range(seed, seed + lanes))
    return dream


def real_dream(seeds: list[int], **arguments: object) -> Dream:
    config = WorldModelConfig(
        encoder=LatentEncoderConfig(channels=(8, 4), down=(True, False), patch=8),
        denoiser=DenoiserConfig(channels=(16,), middle_attention=False, cond_channels=12),
        reward_end=RewardEndConfig(
            channels=(8,), depths=(1,), attention=(False,), down=(False,), cond_channels=8, lstm_dim=8
        ),
        sampler=SamplerConfig(steps=2, churn=0.5),
        context_length=K,
    )
    torch.manual_seed(0)  # also the embedding of the noise level is random
    g = torch.Generator().manual_seed(0)
    model = WorldModel(A, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=g) / fan**0.5)
    frames = torch.randn(BANK, K, *model.frame_shape, generator=g)
    contexts = Context(frames, torch.randint(A, (BANK, K - 1), generator=g))
    dream = Dream(model, contexts, **{"horizon": 4, **arguments})
    dream.reset(seeds)
    return dream


def which_context(dream: Dream) -> list[int]:
    return dream.state.model.frames[:, -1, 1, 0, 0].long().tolist()


def tensors(record: Record) -> list[Tensor]:
    found: list[Tensor] = []
    record.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(a: Record, b: Record) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def actions_for(lanes: int, step: int = 0) -> Tensor:
    return (torch.arange(lanes) + step) % A


def test_a_new_dream():
    dream = fake_dream(4)
    state = dream.state
    assert len(state) == 4
    assert state.age.tolist() == [0] * 4
    assert state.done.tolist() == [False] * 4
    assert (state.age.dtype, state.done.dtype) == (torch.int64, torch.bool)
    assert all(0 <= context < BANK for context in which_context(dream))
    assert (state.model.frames[:, :, 0, 0, 0] == torch.arange(-K, 0)).all()


def test_contexts_can_be_chosen():
    dream = fake_dream(1)
    dream.reset([5, 5, 5], contexts=torch.tensor([6, 0, 3]))
    assert which_context(dream) == [6, 0, 3]
    dream.reset(None, mask=torch.tensor([True, False, True]), contexts=torch.tensor([1, 2, 4]))
    assert which_context(dream) == [1, 0, 4]


def test_contexts_are_drawn_uniformly_from_the_whole_bank():
    dream, lanes = fake_dream(1), 7000
    dream.reset(range(lanes))
    counts = torch.bincount(torch.tensor(which_context(dream)), minlength=BANK)
    expected = lanes / BANK
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 22.5  # 0.1% of six degrees of freedom
    before = torch.tensor(which_context(dream))
    dream.restart(torch.ones(lanes, dtype=torch.bool))
    again = (torch.tensor(which_context(dream)) == before).double().mean().item()
    assert again == pytest.approx(1 / BANK, abs=0.02)  # a restart draws anew


def test_a_step_is_the_model_s():
    dream = fake_dream(3, horizon=None)
    frames = dream.state.model.frames
    noise = LaneNoise(dream.state.key, dream.state.count).normal((1, 1, 2))
    transition = dream.step(torch.tensor([0, 1, 2]))
    assert transition.prediction.reward.tolist() == [-1, 0, 1]
    expected = frames[:, -1, :1] + torch.tensor([0, 1, 2]).view(3, 1, 1, 1) + noise
    torch.testing.assert_close(dream.state.model.frames[:, -1, :1], expected)
    assert torch.equal(dream.state.model.frames[:, :-1], frames[:, 1:])


def test_no_two_steps_share_their_noise():
    """Neither steps of a lane, nor the steps after a restart, nor the draw of a context and a step."""
    dream, seen = fake_dream(2, horizon=None), []
    for step in range(12):
        before = dream.state
        dream.step(torch.zeros(2, dtype=torch.int64))
        seen += (dream.state.model.frames - before.model.frames)[:, -1, 0].flatten().tolist()
        dream.restart(torch.tensor([step % 3 == 2, False]))
    assert len({round(number, 5) for number in seen}) == len(seen)


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_horizon_truncates_at_its_step_and_not_before(horizon):
    dream = fake_dream(2, horizon=horizon)
    for step in range(1, horizon + 1):
        transition = dream.step(actions_for(2, step))
        assert dream.state.age.tolist() == [step, step]
        assert transition.truncated.tolist() == [step == horizon] * 2
        assert transition.prediction.terminated.tolist() == [False, False]
        assert dream.state.done.tolist() == transition.done.tolist() == [step == horizon] * 2


def test_without_a_horizon_a_dream_goes_on():
    dream = fake_dream(1, horizon=None)
    assert not any(dream.step(actions_for(1)).done.item() for _ in range(300))


def test_termination_and_truncation_are_told_apart():
    dream = fake_dream(500, end_chance=0.3, horizon=2)
    first = dream.step(actions_for(500))
    assert 0.2 < first.prediction.terminated.double().mean() < 0.4
    assert not first.truncated.any()
    second = dream.step(actions_for(500))
    assert second.truncated.all()
    assert 0.2 < second.prediction.terminated.double().mean() < 0.4
    assert dream.state.done.all()


def test_a_lane_that_ended_stays_done_until_it_begins_anew():
    dream = fake_dream(50, end_chance=0.3, horizon=None)
    ended = torch.zeros(50, dtype=torch.bool)
    for step in range(4):
        ended |= dream.step(actions_for(50, step)).done
        assert torch.equal(dream.state.done, ended)
    dream.restart(ended)
    assert not dream.state.done.any()


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 3))
def test_a_restart_touches_its_lanes_alone(mask, steps):
    lanes = len(mask)
    dream = fake_dream(lanes, horizon=None)
    for step in range(steps):
        dream.step(actions_for(lanes, step))
    before = dream.state.clone()
    dream.restart(torch.tensor(mask))
    for lane, restarted in enumerate(mask):
        if not restarted:
            assert same(dream.state[lane], before[lane])
            continue
        lane_state = dream.state[lane]
        assert lane_state.age.item() == 0
        assert lane_state.done.item() is False
        assert lane_state.model.hidden.item() == 0
        assert lane_state.key.item() == before.key[lane]
        assert lane_state.count.item() == before.count[lane] + 1


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.sampled_from([0.0, 0.5]))
def test_a_step_with_restarts_is_a_step_in_some_lanes_and_a_beginning_in_the_others(mask, end_chance):
    """What Gymnasium calls NEXT_STEP: the restarted lane ignores its action, earns nothing and ends nothing."""
    lanes, restart = len(mask), torch.tensor(mask)
    plain, begun, mixed = (fake_dream(lanes, end_chance=end_chance, horizon=2) for _ in range(3))
    for dream in (plain, begun, mixed):
        dream.step(actions_for(lanes))
    expected = plain.step(actions_for(lanes, 1))
    begun.restart(torch.ones(lanes, dtype=torch.bool))
    got = mixed.step(actions_for(lanes, 1), restart)
    for lane, restarted in enumerate(mask):
        assert same(mixed.state[lane], (begun if restarted else plain).state[lane])
        if not restarted:
            assert same(got[lane], expected[lane])
            continue
        assert not got.done[lane]
        assert not got.prediction.terminated[lane]
        assert got.prediction.reward[lane] == 0
        assert mixed.state.age[lane] == 0


@pytest.mark.parametrize("make", [lambda: fake_dream(3, end_chance=0.2), lambda: real_dream([1, 2, 3])])
def test_a_restored_dream_goes_on_bit_for_bit(make):
    """Even through a pickle, in a dream made anew; restarts included."""

    def run(dream: Dream) -> list[Transition]:
        transitions = []
        for step in range(9):
            transitions.append(dream.step(actions_for(3, step)))
            dream.restart(dream.state.done)
        return transitions

    dream = make()
    dream.step(actions_for(3))
    saved = pickle.dumps(dream.state)
    first, end = run(dream), dream.state
    dream.state = pickle.loads(saved)
    again = make()
    again.state = pickle.loads(saved)
    for twin in (dream, again):
        assert all(map(same, first, run(twin)))
        assert same(end, twin.state)


def test_a_step_never_writes_into_the_state_before_it():
    for dream in (fake_dream(3, end_chance=0.5), real_dream([1, 2, 3])):
        for step in range(3):
            state = dream.state
            kept = state.clone()
            dream.step(actions_for(3, step), torch.tensor([False, True, False]))
            dream.restart(torch.tensor([True, False, False]))
            assert same(state, kept)


def test_a_dream_has_no_gradients_even_if_its_model_has():
    class Learning(Counting):
        def __init__(self):
            super().__init__()
            self.weight = torch.ones((), requires_grad=True)

        def begin(self, context):
            return super().begin(context.map(lambda tensor: tensor * self.weight.to(tensor.dtype)))

        def advance(self, state, actions, noise, steps=None):
            return super().advance(replace(state, frames=state.frames * self.weight), actions, noise, steps)

    dream = Dream(Learning(), bank(), horizon=None)
    dream.reset([0, 1, 2], context=bank(3))
    assert not any(tensor.requires_grad for tensor in tensors(dream.state))
    dream.step(actions_for(3))
    dream.restart(torch.tensor([True, False, False]))
    assert not any(tensor.requires_grad for tensor in tensors(dream.state))


def test_a_dream_forks_into_twins_and_twins_part_by_their_actions():
    dream = real_dream([1, 2])
    dream.step(actions_for(2))
    dream.state = dream.state.repeat(3)
    dream.step(torch.tensor([0, 0, 1, 2, 2, 2]))
    frames = dream.state.model.frames[:, -1]
    torch.testing.assert_close(frames[0], frames[1])
    torch.testing.assert_close(frames[3], frames[5])
    assert not torch.isclose(frames[0], frames[2]).all()


def history(dream: Dream, lane: int, steps: int) -> list[Record]:
    """What a lane goes through when it acts by its seed alone and begins anew whenever it is done."""
    lanes, seen = len(dream.state), []
    for step in range(steps):
        actions = (dream.state.key + step) % A
        transition = dream.step(actions)
        seen += [transition[lane], dream.state[lane]]
        # The other lanes begin anew at odd times; this one, when it has ended.
        others = torch.arange(lanes) % 2 == step % 2
        others[lane] = False
        dream.restart((dream.state.done & (torch.arange(lanes) == lane)) | others)
        seen.append(dream.state[lane])
    return seen


@given(SEEDS, st.data())
def test_other_lanes_never_change_yours(seeds, data):
    """Bit for bit, with a fake that computes lane by lane."""
    lane = data.draw(st.integers(0, len(seeds) - 1))
    alone, among = (Dream(Counting(0.3), bank(), horizon=3) for _ in range(2))
    alone.reset([seeds[lane]])
    among.reset(seeds)
    assert all(map(same, history(alone, 0, 8), history(among, lane, 8)))


@settings(max_examples=10)
@given(SEEDS, st.data())
def test_other_lanes_hardly_change_yours_in_a_real_model(seeds, data):
    """Matrix products may round otherwise in another batch size; the noise does not."""
    lane = data.draw(st.integers(0, len(seeds) - 1))
    pairs = zip(history(real_dream([seeds[lane]]), 0, 6), history(real_dream(seeds), lane, 6), strict=True)
    for mine, among in pairs:
        for x, y in zip(tensors(mine), tensors(among), strict=True):
            torch.testing.assert_close(x, y, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda seeds: real_dream(seeds), lambda seeds: fake_dream(len(seeds), seed=seeds[0])])
def test_equal_seeds_dream_equal_dreams(make):
    one, two, other = make([1, 2]), make([1, 2]), make([3, 4])
    for step in range(4):
        for dream in (one, two, other):
            dream.step(actions_for(2, step))
    assert same(one.state, two.state)
    assert not torch.isclose(one.state.model.frames, other.state.model.frames).all()


def test_a_dream_survives_a_pickle_and_a_copy():
    dream = real_dream([1, 2, 3])
    dream.step(actions_for(3))
    for twin in (pickle.loads(pickle.dumps(dream)), copy.deepcopy(dream)):
        assert same(twin.state, dream.state)
        twin.restart(torch.tensor([False, True, False]))
        ahead = twin.step(actions_for(3))
        again = pickle.loads(pickle.dumps(dream))
        again.restart(torch.tensor([False, True, False]))
        assert same(ahead, again.step(actions_for(3)))


def test_a_new_bank_is_for_the_dreams_to_come():
    dream = fake_dream(3)
    dream.step(actions_for(3))
    under_way = dream.state.clone()
    dream.set_contexts(bank(2, offset=100))
    assert same(dream.state, under_way)
    dream.restart(torch.tensor([True, False, True]))
    contexts = which_context(dream)
    assert contexts[0] in (100, 101)
    assert contexts[1] < BANK
    assert contexts[2] in (100, 101)


def test_beginning_from_a_given_history_is_beginning_from_a_bank_of_it():
    given, banked = real_dream([1, 2, 3]), real_dream([1, 2, 3])
    history = Context(
        torch.randn(3, K, 4, 4, 4, generator=torch.Generator().manual_seed(5)), torch.ones(3, K - 1, dtype=torch.int64)
    )
    banked.set_contexts(history)
    mask = torch.tensor([True, False, True])
    for seeds, part in (([7, 8, 9], None), (None, mask)):
        given.reset(seeds, mask=part, context=history)
        banked.reset(seeds, mask=part, contexts=torch.arange(3))
        assert same(given.state, banked.state)
        for dream in (given, banked):
            dream.step(actions_for(3))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=6))
def test_new_seeds_for_some_lanes_leave_the_others_alone(lanes):
    mask, seeds = torch.tensor([reset for reset, _ in lanes]), [seed for _, seed in lanes]
    dream, fresh = fake_dream(len(lanes), seed=100), fake_dream(len(lanes))
    fresh.reset(seeds)
    dream.step(actions_for(len(lanes)))
    before = dream.state.clone()
    dream.reset(seeds, mask=mask)
    for lane, (reset, _) in enumerate(lanes):
        assert same(dream.state[lane], (fresh.state if reset else before)[lane])


def test_a_reset_without_seeds_goes_on_along_the_streams():
    dream, restarted = fake_dream(4), fake_dream(4)
    for one in (dream, restarted):
        one.step(actions_for(4))
    dream.reset(None)
    restarted.restart(torch.ones(4, dtype=torch.bool))
    assert same(dream.state, restarted.state)
    assert dream.state.count.tolist() == [3] * 4  # reset, step, reset


@pytest.mark.parametrize("stack", [1, 2, K])
def test_an_observation_is_the_last_frames_newest_last(stack):
    dream = fake_dream(2)
    dream.step(actions_for(2))
    got = dream.observation(stack)
    frames = dream.state.model.frames
    assert got.shape == (2, 2 * stack, 1, 2)
    for i in range(stack):
        assert torch.equal(got[:, 2 * i : 2 * i + 2], frames[:, K - stack + i])


@pytest.mark.parametrize("steps", [None, 7])
def test_the_sampler_s_steps_are_passed_on(steps):
    model = Counting()
    dream = Dream(model, bank(), horizon=3, sampler_steps=steps)
    dream.reset([1])
    dream.step(actions_for(1))
    assert model.steps == [steps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_is_of_the_arithmetic_and_not_of_the_state(dtype):
    model = Counting()
    dream = Dream(model, bank(), horizon=3, dtype=dtype)
    dream.reset([1])
    dream.step(actions_for(1))
    assert model.dtypes == [dtype]
    coarse, fine = real_dream([1, 2], dtype=dtype, horizon=None), real_dream([1, 2], horizon=None)
    for dream in (coarse, fine):
        dream.step(actions_for(2))
    assert [x.dtype for x in tensors(coarse.state)] == [x.dtype for x in tensors(fine.state)]
    torch.testing.assert_close(coarse.observation(1), fine.observation(1), atol=0.1, rtol=0.1)


def test_a_dream_needs_no_gradient_and_survives_inference_mode():
    with torch.inference_mode():
        dream = real_dream([1, 2])
        dream.step(actions_for(2))
        dream.restart(torch.tensor([True, False]))
    transition = dream.step(actions_for(2))
    assert not any(tensor.requires_grad for tensor in (*tensors(dream.state), *tensors(transition)))


def test_replacing_a_part_of_the_state_is_a_dream_too():
    dream = fake_dream(2, horizon=5)
    dream.state = replace(dream.state, age=torch.tensor([4, 0]))
    assert isinstance(dream.state, DreamState)
    assert dream.step(actions_for(2)).truncated.tolist() == [True, False]


@pytest.mark.slow
@pytest.mark.timeout(900)  # the compiler takes its time
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, of parts of torch itself
def test_a_compiled_dream_is_the_same_dream():
    """Up to rounding, for any number of lanes, with what was drawn unchanged."""
    eager, compiled = (real_dream([1], horizon=None, sampler_steps=1, compile=compile) for compile in (False, True))
    for seeds in ([1, 2, 3], [4, 5]):
        for dream in (eager, compiled):
            dream.reset(seeds)
        for step in range(3):
            one, two = (dream.step(actions_for(len(seeds), step)) for dream in (eager, compiled))
            for x, y in zip(tensors(one), tensors(two), strict=True):
                torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(eager.observation(1), compiled.observation(1), atol=1e-4, rtol=1e-4)
