"""The world model: which loss teaches which part, what the context holds, and that dreaming reads as training did."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.denoiser import Denoiser
from jedi_env.models.reward_end import RewardEndLogits
from jedi_env.models.sampler import SamplerConfig, as_levels, karras_sigmas, sample
from jedi_env.models.spread import covariance_penalty
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context, Segment
from tests.models.small_models import (
    DIAMOND,
    TINY,
    A,
    Always,
    B,
    K,
    Scripted,
    Spy,
    generator,
    learning,
    lively,
    noise,
    play,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


@pytest.mark.parametrize(("config", "shape"), [(TINY, (4, 4, 4)), (DIAMOND, (3, 64, 64))])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_any_leading_axes_are_encoded_one_picture_at_a_time(config, shape, lead):
    model = WorldModel(A, replace(config, denoiser=TINY.denoiser, reward_end=TINY.reward_end))
    pixels = torch.randint(256, (*lead, 64, 64, 3), generator=generator(), dtype=torch.uint8)
    frames = model.encode(pixels)
    assert frames.shape == (*lead, *shape) == (*lead, *model.frame_shape)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in lead)).reshape(-1, len(lead)) if lead else [()]:
        place = tuple(index)
        torch.testing.assert_close(frames[place], model.encode(pixels[place]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switching", [0.0, 1.0])
@pytest.mark.parametrize("learns", [True, False])
def test_which_loss_teaches_which_part(learns, switching):
    """JEDI's matrix: denoising -> denoiser and encoder; reward and end -> their model and the encoder; nothing else."""
    expected = {  # encoder, denoiser, reward/termination model
        "denoising": (learns, True, False),
        "reward": (True, False, True),
        "end": (True, False, True),
        "covariance": (True, False, False),
        "total": (True, True, True),
    }
    config = replace(TINY, switching=switching, encoder_learns_from_denoising=learns, covariance_weight=0.5)
    for name, parts in expected.items():
        model, segment = lively(config), play(K + 2)
        losses = model.loss(model.encode(segment.pixels), segment, generator())
        getattr(losses, name).backward()
        got = tuple(learning(part) for part in (model.encoder, model.denoiser, model.reward_end))
        assert got == tuple({part} for part in parts), name


def test_the_denoising_loss_reaches_the_frames_of_the_context_and_never_a_target():
    """Frame K + 1 is only ever a target; frame K is target and, without switching, context."""
    for switching, middle in ((0.0, True), (1.0, False)):
        model, segment = lively(replace(TINY, switching=switching)), play(K + 1)
        frames = model.encode(segment.pixels).detach().requires_grad_()
        model.loss(frames, segment, generator()).denoising.backward()
        reached = frames.grad.flatten(2).abs().sum(dim=2) > 0
        assert reached[:, :K].all()
        assert reached[:, K].tolist() == [middle] * B
        assert not reached[:, K + 1].any()


def test_the_context_may_come_from_one_encoder_and_the_target_from_another():
    """The encoder of the target gets nothing, even where it shares no parameter with the one of the context."""
    model, other, segment = lively(TINY), lively(TINY), play(K)
    frames = torch.cat((model.encode(segment.pixels[:, :K]), other.encode(segment.pixels[:, K:])), dim=1)
    model.loss(frames, segment, generator()).denoising.backward()
    assert learning(model.encoder) == {True}
    assert learning(other.encoder) == {False}


def test_the_decoder_is_no_part_of_the_model():
    model, segment = lively(TINY), play(K)
    names = set(model.state_dict())
    assert model.decoder is None
    decoder = Decoder(model.frame_shape, DecoderConfig(channels=8, blocks=1))
    model.attach_decoder(decoder)
    assert model.decoder is decoder
    assert set(model.state_dict()) == names
    frames = model.encode(segment.pixels)
    decoder.loss(frames.flatten(0, 1), segment.pixels.flatten(0, 1)).backward()
    assert learning(model) == {False}
    assert learning(decoder) == {True}


def test_a_pixel_model_draws_itself():
    model = WorldModel(A, replace(DIAMOND, denoiser=TINY.denoiser, reward_end=TINY.reward_end))
    pixels = play(1).pixels[:, 0]
    assert torch.equal(model.decoder.decode(model.encode(pixels)), pixels)


def expected_contexts(spy: Spy, model: WorldModel, frames: Tensor, feed: bool) -> Iterator[Tensor]:
    window = list(frames.unbind(dim=1))
    for t in range(K, frames.shape[1]):
        yield torch.stack(window[t - K : t], dim=1)
        if feed:
            happened = spy.masks[t - K][:, None, None, None]
            window[t] = torch.where(happened, model.encoder.clamp(spy.estimates[t - K]), window[t])


@pytest.mark.parametrize("switching", [0.0, 0.5, 1.0])
def test_switching_replaces_the_context_and_nothing_else(switching, monkeypatch):
    """One coin a batch: with the model's own estimate, or with the encoder's frame, at every place of the sequence."""
    model, segment = lively(replace(TINY, switching=switching)), play(K + 3)
    segment.mask[0, K + 1 :], segment.mask[1, K + 2 :] = False, False
    frames = model.encode(segment.pixels)
    fed = []
    for seed in range(40):
        with monkeypatch.context() as patch:
            spy = Spy(model, patch)
            model.loss(frames, segment, generator(seed))
        assert len(spy.contexts) == 4
        matches = [
            all(map(torch.equal, spy.contexts, expected_contexts(spy, model, frames, feed))) for feed in (False, True)
        ]
        assert sum(matches) == 1
        assert spy.at_once == ([1] * 4 if matches[1] else [4])  # what is known beforehand is one pass
        fed.append(matches[1])
        for i in range(4):
            assert torch.equal(spy.targets[i], frames[:, K + i])
            assert torch.equal(spy.actions[i], segment.actions[:, i : i + K])
            assert torch.equal(spy.masks[i], segment.mask[:, K - 1 + i])
    assert 10 < sum(fed) < 30 if switching == 0.5 else fed == [switching == 1.0] * 40


@pytest.mark.parametrize("context_length", [1, K])
def test_all_steps_at_once_are_one_after_the_other(context_length):
    """Of a loss without noise, on lanes that begin late and end early: the same value and gradients."""
    denoiser = replace(TINY.denoiser, diffusion=False)
    model = lively(replace(TINY, context_length=context_length, denoiser=denoiser, switching=0.0))
    segment = play(K + 2)
    segment.mask[0, K:], segment.mask[1, : K + 1] = False, False
    frames = model.encode(segment.pixels).detach().requires_grad_()
    at_once = model.denoising_loss(frames, segment, generator())
    each = []
    for after in range(context_length, K + 3):
        before = slice(after - context_length, after)
        batch = frames[:, after], frames[:, before], segment.actions[:, before], segment.mask[:, after - 1]
        each.append(model.denoiser.loss(*(x[:, None] for x in batch), generator())[0])
    in_a_row = torch.stack(each).mean()
    learned = [frames, *model.denoiser.parameters()]
    torch.testing.assert_close(at_once, in_a_row)
    for one, other in zip(*(torch.autograd.grad(loss, learned) for loss in (at_once, in_a_row)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_what_is_fed_back_is_what_a_dream_would_see():
    """Clamped onto the valid frames, and without gradient."""
    model, segment = lively(replace(TINY, switching=1.0)), play(K + 1)
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(model, patch)
        model.loss(model.encode(segment.pixels), segment, generator())
    assert (spy.contexts[1][:, -1].abs() <= model.bound).all()
    assert not spy.estimates[0].requires_grad
    assert not torch.equal(spy.estimates[0], spy.contexts[1][:, -1])  # the clamp did something


def test_no_estimate_is_fed_back_of_what_never_happened(monkeypatch):
    """Before an episode's start the first frame is repeated: there is nothing to estimate, and no loss shaped it."""
    model, segment = lively(replace(TINY, switching=1.0)), play(K + 1)
    segment.mask[1, :K] = False  # this lane's first real transition leads to the last frame
    frames = model.encode(segment.pixels)
    spy = Spy(model, monkeypatch)
    model.loss(frames, segment, generator())
    assert [mask.tolist() for mask in spy.masks] == [[True, False, True], [True, True, True]]
    assert torch.equal(spy.contexts[1][1], frames[1, 1 : K + 1])
    assert torch.equal(spy.contexts[1][0, -1], model.encoder.clamp(spy.estimates[0])[0])


def gradients(model: WorldModel, segment: Segment, seed: int) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    losses = model.loss(model.encode(segment.pixels), segment, generator(seed))
    losses.total.backward()
    return losses.total.item(), [parameter.grad.clone() for parameter in model.parameters()]


@settings(max_examples=30)
@given(st.lists(st.integers(0, K + 2), min_size=B, max_size=B), st.sampled_from([0.0, 1.0]), st.integers(0, 99))
def test_what_follows_an_end_changes_no_loss_and_no_gradient(lengths, switching, seed):
    """Scramble all that is masked after each lane's end: pixels beyond the final ones, actions, rewards, ends."""
    model, real, junk = lively(replace(TINY, switching=switching)), play(K + 2), play(K + 2, seed=7)
    happened = torch.arange(K + 2) < torch.tensor(lengths)[:, None]
    seen = torch.arange(K + 3) <= torch.tensor(lengths)[:, None]
    segments = [
        Segment(
            pixels=torch.where(seen[..., None, None, None], real.pixels, beyond.pixels),
            actions=torch.where(happened, real.actions, beyond.actions),
            rewards=torch.where(happened, real.rewards, beyond.rewards),
            terminated=torch.where(happened, real.terminated, beyond.terminated),
            mask=happened,
        )
        for beyond in (real, junk)
    ]
    (loss, grads), (other_loss, other_grads) = (gradients(model, segment, seed) for segment in segments)
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert math.isfinite(loss)
    for one, other in zip(grads, other_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@given(st.lists(st.integers(0, K + 2), min_size=B, max_size=B), st.sampled_from([0.0, 1.0]))
@settings(max_examples=30)
def test_before_a_beginning_no_outcome_is_learned(starts, switching):
    """There the repeated first pixels are a context, as in a dream; but their rewards and ends are nobody's."""
    model, real, junk = lively(replace(TINY, switching=switching)), play(K + 2), play(K + 2, seed=7)
    happened = torch.arange(K + 2) >= torch.tensor(starts)[:, None]
    segments = [
        Segment(
            pixels=real.pixels,
            actions=real.actions,
            rewards=torch.where(happened, real.rewards, before.rewards),
            terminated=torch.where(happened, real.terminated, before.terminated),
            mask=happened,
        )
        for before in (real, junk)
    ]
    (loss, grads), (other_loss, other_grads) = (gradients(model, segment, 0) for segment in segments)
    assert loss == other_loss
    assert all(map(torch.equal, grads, other_grads))


def test_the_total_is_the_weighted_sum_and_the_mean_over_denoising_steps(monkeypatch):
    model, segment = lively(replace(TINY, covariance_weight=0.25, switching=1.0)), play(K + 2)
    frames = model.encode(segment.pixels)
    losses = model.loss(frames, segment, generator())
    expected = losses.denoising + losses.reward + losses.end + 0.25 * losses.covariance
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.covariance, covariance_penalty(frames.flatten(0, 1)))
    each = iter([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(6.0)])
    monkeypatch.setattr(model.denoiser, "loss", lambda target, *rest: (next(each), target))
    assert model.loss(frames, segment, generator()).denoising.item() == 3.0


def test_without_a_weight_the_covariance_costs_nothing():
    model, segment = lively(TINY), play(K)
    losses = model.loss(model.encode(segment.pixels), segment, generator())
    assert losses.covariance.item() == 0
    torch.testing.assert_close(losses.total, losses.denoising + losses.reward + losses.end)


def test_reward_and_end_may_learn_from_sequences_of_their_own():
    model, short, long = lively(TINY), play(K), play(11, seed=5, batch=2)
    alone = model.loss(model.encode(long.pixels), long, generator())
    together = model.loss(model.encode(short.pixels), short, generator(), (model.encode(long.pixels), long))
    shared = model.loss(model.encode(short.pixels), short, generator())
    torch.testing.assert_close(together.reward, alone.reward)
    torch.testing.assert_close(together.end, alone.end)
    torch.testing.assert_close(together.denoising, shared.denoising)


def test_a_loss_depends_on_its_generator_alone():
    model, segment = lively(TINY), play(K + 1)
    frames = model.encode(segment.pixels)
    first, again, other = (model.loss(frames, segment, generator(seed)).total.item() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("sees_next", [True, False])
@pytest.mark.parametrize("frame_stack", [1, 2, K])
def test_a_dream_reads_rewards_at_the_place_where_training_did(sees_next, frame_stack):
    """Live through a context, then step twice: the probabilities are those of the training sequence's transitions."""
    reward_end = replace(TINY.reward_end, sees_next=sees_next, frame_stack=frame_stack)
    model = lively(replace(TINY, reward_end=reward_end)).eval()
    segment = play(K + 1)
    frames = model.encode(segment.pixels).detach()
    state = model.begin(Context(frames[:, :K], segment.actions[:, : K - 1]))
    logits, _ = model.read(frames, segment.actions)
    for t in (K - 1, K):
        model.encoder.clamp = lambda frame: frames[:, t + 1]  # noqa: B023  # a perfect denoiser
        state, prediction = model.advance(state, segment.actions[:, t], noise())
        assert torch.equal(state.frames, frames[:, t + 2 - K : t + 2])
        assert torch.equal(state.actions, segment.actions[:, t + 2 - K : t + 1])
        expected = logits.reward[:, t].softmax(dim=-1), logits.end[:, t].softmax(dim=-1)[:, 1]
        torch.testing.assert_close(prediction.reward_probs, expected[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(prediction.termination_prob, expected[1], atol=1e-5, rtol=1e-4)


def test_noise_on_the_frames_is_of_the_deviation_asked_for_and_only_in_training():
    """What the reward model is shown, seen by a spy; the dream is shown the frames as they are."""
    model = lively(replace(TINY, reward_end=replace(TINY.reward_end, frame_noise=0.5))).eval()
    segment, shown = play(K), []
    frames = model.encode(segment.pixels).detach()
    model.reward_end.register_forward_pre_hook(lambda _, args: shown.append((args[0].detach(), args[2].detach())))
    model.reward_end_loss(frames, segment, generator())
    before, after = shown.pop()
    assert torch.equal(before[:, 1:], after[:, :-1])  # a frame has its noise, whichever side it stands on
    added = before - frames[:, :-1]
    assert added.std().item() == pytest.approx(0.5, rel=0.1)
    assert added.mean().item() == pytest.approx(0.0, abs=0.1)
    state = model.begin(Context(frames[:, :K], segment.actions[:, : K - 1]))
    assert torch.equal(shown.pop()[0], frames[:, : K - 1])
    model.advance(state, segment.actions[:, K - 1], noise())
    assert torch.equal(shown.pop()[0], frames[:, K - 1 : K])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("churn", [0.0, 1.0])
@pytest.mark.parametrize("start_std", [1.0, 3.0])
def test_the_next_frame_is_the_sampler_s(order, churn, start_std):
    """Put together here from the parts, with the noise in the order of asking: start, then churn."""
    config = SamplerConfig(5, sigma_min=0.01, sigma_max=3.0, rho=5.0, order=order, churn=churn, start_std=start_std)
    model, segment = lively(replace(TINY, sampler=config)).eval(), play(K)
    frames = model.encode(segment.pixels[:, :K]).detach()
    state = model.begin(Context(frames, segment.actions[:, : K - 1]))
    for steps in (None, 2):
        after, _ = model.advance(state, segment.actions[:, K - 1], noise(count=3), steps)
        source = noise(count=3)
        with torch.no_grad():
            given = model.denoiser.condition(frames, segment.actions)
            expected = sample(
                lambda x, sigma: 3 * torch.tanh(model.denoiser.denoise(x, as_levels(sigma, x), given) / 3),  # noqa: B023
                start_std * source.normal(model.frame_shape),
                karras_sigmas(steps or 5, 0.01, 3.0, 5.0),
                order,
                churn,
                lambda: source.normal(model.frame_shape),  # noqa: B023
            )
        torch.testing.assert_close(after.frames[:, -1], expected)
        assert torch.equal(after.frames[:, :-1], frames[:, 1:])


def test_advancing_changes_nothing_that_it_was_given():
    model, segment = lively(TINY).eval(), play(K)
    context = Context(model.encode(segment.pixels[:, :K]).detach(), segment.actions[:, : K - 1])
    state = model.begin(context)
    kept = state.clone()
    model.advance(state, segment.actions[:, -1], noise())
    for name in ("frames", "actions", "hidden", "cell"):
        assert torch.equal(getattr(state, name), getattr(kept, name))


def test_real_play_as_the_dream_has_it_is_a_dream_with_the_same_actions():
    model, segment = lively(TINY).eval(), play(K + 2)
    frames = model.encode(segment.pixels)
    kept = frames.detach().clone()
    dreamed = model.dreamed(frames, segment, Always())
    assert torch.equal(frames, kept)
    assert torch.equal(dreamed[:, :K], kept[:, :K])
    assert not dreamed.requires_grad
    state = model.begin(Context(kept[:, :K], segment.actions[:, : K - 1]))
    for t in range(K - 1, K + 2):
        state, _ = model.advance(state, segment.actions[:, t], Always())
        torch.testing.assert_close(dreamed[:, t + 1], state.frames[:, -1])
        assert not torch.allclose(dreamed[:, t + 1], kept[:, t + 1], atol=0.1)


def test_every_dreamed_frame_has_noise_of_its_own():
    model, segment = lively(TINY).eval(), play(K + 1)
    still = replace(segment, pixels=segment.pixels[:, :1].expand_as(segment.pixels), actions=segment.actions * 0)
    frames = model.encode(still.pixels).detach()
    asked = []
    model.encoder.clamp = lambda frame: (asked.append(frame), frames[:, 0])[1]  # every step stands where the first did
    model.dreamed(frames, still, noise())
    steps = model.config.sampler.steps
    assert len(asked) == 2 * steps
    assert not torch.equal(asked[0], asked[steps])


@pytest.mark.parametrize("beginning", [0, 1, K - 1, K, K + 2])
@pytest.mark.parametrize("end", [K, K + 1, K + 4])
def test_what_never_happened_is_not_dreamed(beginning, end):
    """Before an episode and after it the real frame stays, and a dream that begins later does so from real frames."""
    model, segment = lively(TINY).eval(), play(K + 4)
    mask = torch.zeros_like(segment.mask)
    mask[:, beginning:end] = True
    segment = replace(segment, mask=mask)
    frames = model.encode(segment.pixels).detach()
    dreamed = model.dreamed(frames, segment, noise())
    for t in range(K + 5):
        imagined = t >= K and beginning < t <= end
        assert torch.equal(dreamed[:, t], frames[:, t]) != imagined


def test_dreaming_asks_for_no_gradient():
    model, segment = lively(TINY), play(K)
    context = Context(model.encode(segment.pixels[:, :K]), segment.actions[:, : K - 1])
    state, prediction = model.advance(model.begin(context), segment.actions[:, -1], noise())
    assert not state.frames[:, -1].requires_grad
    assert not state.hidden.requires_grad
    assert not prediction.reward_probs.requires_grad


@given(
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_outcomes_are_drawn_by_their_probabilities(numbers, reward_draw, end_draw):
    """Inverse transform sampling: the first sign at which the probabilities add up to more than the number drawn."""
    model = WorldModel(A, TINY)
    state = model.begin(Context(torch.zeros(B, K, *model.frame_shape), torch.zeros(B, K - 1, dtype=torch.int64)))
    logits = torch.tensor(numbers).expand(B, 1, 5)
    model.reward_end.forward = lambda frames, actions, after, memory: (
        RewardEndLogits(logits[..., :3], logits[..., 3:]),
        memory,
    )
    uniforms = [torch.full((B,), x).clamp(max=1 - 2**-24) for x in (reward_draw, end_draw)]
    noise = Scripted(uniforms, torch.ones(B, *model.frame_shape))
    _, prediction = model.advance(state, torch.zeros(B, dtype=torch.int64), noise)
    weights = [math.exp(x) for x in numbers]
    shares = [w / sum(weights[:3]) for w in weights[:3]]
    ended = weights[4] / sum(weights[3:])
    assert prediction.reward_probs[0].tolist() == pytest.approx(shares, rel=1e-4)
    assert prediction.termination_prob[0].item() == pytest.approx(ended, rel=1e-4)
    edges = [shares[0], shares[0] + shares[1]]
    if min(abs(reward_draw - edge) for edge in edges) > 1e-5:
        expected = -1 if reward_draw < edges[0] else 0 if reward_draw < edges[1] else 1
        assert prediction.reward.tolist() == [expected] * B
    if abs(end_draw - ended) > 1e-5:
        assert prediction.terminated.tolist() == [end_draw < ended] * B


def test_the_largest_number_drawn_still_names_a_sign():
    """Rounded probabilities may add up to less than it."""
    model, lanes = WorldModel(A, TINY), 4000
    context = Context(torch.zeros(lanes, K, *model.frame_shape), torch.zeros(lanes, K - 1, dtype=torch.int64))
    logits = 3 * torch.randn(lanes, 1, 5, generator=generator())
    outcome = RewardEndLogits(logits[..., :3], logits[..., 3:])
    model.reward_end.forward = lambda frames, actions, after, memory: (outcome, memory)
    largest = torch.full((lanes,), 1 - 2**-24)
    assert (outcome.reward.softmax(dim=-1).sum(dim=-1) <= largest[:, None]).any()
    noise = Scripted([largest, largest], torch.ones(lanes, *model.frame_shape))
    _, prediction = model.advance(model.begin(context), torch.zeros(lanes, dtype=torch.int64), noise)
    assert (prediction.reward == 1).all()


def test_outcomes_come_as_often_as_they_are_likely():
    model, lanes = lively(TINY).eval(), 4000
    segment = play(K, batch=1)
    frames = model.encode(segment.pixels[:, :K]).detach()
    state = model.begin(Context(frames, segment.actions[:, : K - 1])).repeat(lanes)
    bias = torch.log(torch.tensor([0.2, 0.5, 0.3, 0.6, 0.4]))
    model.reward_end.head[-1].weight.data.zero_()
    model.reward_end.head.append(nn.Linear(5, 5)).requires_grad_(False)
    model.reward_end.head[-1].weight.zero_()
    model.reward_end.head[-1].bias.copy_(bias)
    _, prediction = model.advance(state, segment.actions[:, -1].repeat(lanes), noise(lanes))
    for sign, share in ((-1, 0.2), (0, 0.5), (1, 0.3)):
        assert (prediction.reward == sign).double().mean().item() == pytest.approx(share, abs=0.03)
    assert prediction.terminated.double().mean().item() == pytest.approx(0.4, abs=0.03)
    both = ((prediction.reward == 1) & prediction.terminated).double().mean().item()
    assert both == pytest.approx(0.3 * 0.4, abs=0.03)  # two draws, not one number used twice


def test_a_context_of_one_frame():
    model, segment = lively(replace(TINY, context_length=1)).eval(), play(3)
    frames = model.encode(segment.pixels).detach()
    state = model.begin(Context(frames[:, :1], segment.actions[:, :0]))
    assert not state.hidden.any()
    after, _ = model.advance(state, segment.actions[:, 0], noise())
    assert after.frames.shape == (B, 1, *model.frame_shape)
    assert after.actions.shape == (B, 0)
    assert math.isfinite(model.loss(frames, segment, generator()).total.item())


@pytest.mark.parametrize(
    ("config", "sizes"),
    [(WorldModelConfig(), (34_048, 4_334_192, 5_882_400)), (DIAMOND, (0, 4_406_851, 5_902_656))],
)
def test_the_papers_sizes(config, sizes):
    model = WorldModel(18, config)
    parts = (model.encoder, model.denoiser, model.reward_end)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == sizes
    assert isinstance(model.denoiser, Denoiser)
