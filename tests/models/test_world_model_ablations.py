"""The paper's ablations, each with a flag of its own."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.sampler import SamplerConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context
from tests.models.small_models import TINY, A, B, K, Scripted, Spy, generator, learning, lively, noise, play


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


@pytest.fixture(params=[0.0, 1.0])
def tiny(request: pytest.FixtureRequest) -> WorldModelConfig:
    """All denoising steps at once, or each after the other."""
    return replace(TINY, switching=request.param)


def with_decoder(config: WorldModelConfig) -> WorldModel:
    model = lively(config)
    model.attach_decoder(Decoder(model.frame_shape, DecoderConfig(channels=8, blocks=1)))
    return model


def taught(config: WorldModelConfig, name: str = "total") -> dict[str, Tensor]:
    """The gradient of a loss in every parameter that has one; the same weights, data and noise whatever the config."""
    torch.manual_seed(3)
    model, segment = with_decoder(config), play(K + 1)
    getattr(model.loss(model.encode(segment.pixels), segment, generator()), name).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}


def equal(first: dict[str, Tensor], second: dict[str, Tensor], part: str) -> bool:
    keys = {key for key in first | second if key.startswith(part)}
    assert keys <= first.keys() & second.keys()
    return all(torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-6) for key in keys)


def test_ablation_no_diffusion_gradient_into_the_encoder(tiny):
    ablated, default = taught(replace(tiny, encoder_learns_from_denoising=False)), taught(tiny)
    assert equal(ablated, default, "denoiser")
    assert equal(ablated, default, "reward_end")
    assert not equal(ablated, default, "encoder")
    model, segment = lively(tiny), play(K + 1)  # what is left is the gradient of reward and end
    losses = model.loss(model.encode(segment.pixels), segment, generator())
    (losses.reward + losses.end).backward()
    left = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert equal(ablated, left, "encoder")


def test_ablation_reconstruction_gradient_added(tiny):
    config = replace(tiny, encoder_learns_from_reconstruction=True)
    ablated, default, reconstruction = taught(config), taught(tiny), taught(config, "reconstruction")
    for part in ("denoiser", "reward_end"):
        assert equal(ablated, default, part)
    assert any(gradient.any() for gradient in reconstruction.values())
    both = {key: default[key] + reconstruction[key] for key in default if key.startswith("encoder")}
    assert equal({key: ablated[key] for key in both}, both, "encoder")


def test_the_reconstruction_loss_is_the_decoders_on_what_was_seen():
    model, segment = with_decoder(replace(TINY, encoder_learns_from_reconstruction=True)), play(K + 1)
    frames = model.encode(segment.pixels)
    expected = model.decoder.loss(frames.flatten(0, 1), segment.pixels.flatten(0, 1))
    torch.testing.assert_close(model.loss(frames, segment, generator()).reconstruction, expected)
    assert with_decoder(TINY).loss(frames, segment, generator()).reconstruction.item() == 0


def test_ablation_separately_trained_autoencoder(tiny):
    config = replace(tiny, separate_autoencoder=True)
    ablated, default, reconstruction = taught(config), taught(tiny), taught(config, "reconstruction")
    for part in ("denoiser", "reward_end"):
        assert equal(ablated, default, part)
    assert equal(ablated, reconstruction, "encoder")
    assert not equal(ablated, default, "encoder")


@pytest.mark.parametrize("flag", ["encoder_learns_from_reconstruction", "separate_autoencoder"])
def test_reconstruction_needs_a_decoder(flag):
    model, segment = lively(replace(TINY, **{flag: True})), play(K)
    with pytest.raises(UsageError, match="there is no decoder"):
        model.loss(model.encode(segment.pixels), segment, generator())


def test_ablation_target_encoder(monkeypatch):
    """Targets are another encoder's, contexts the encoder's own; and no gradient reaches the other one."""
    model, segment = lively(replace(TINY, target_ema=0.75, switching=0.0)), play(K + 1)
    frames = model.encode(segment.pixels)
    other = model.target_encoder(segment.pixels.flatten(0, 1)).reshape(frames.shape)
    assert not torch.allclose(frames, other)  # lively gave it other weights
    spy = Spy(model, monkeypatch)
    model.loss(frames, segment, generator()).total.backward()
    for i in range(2):
        assert torch.equal(spy.targets[i], other[:, K + i])
        assert torch.equal(spy.contexts[i], frames[:, i : K + i])
    assert learning(model.target_encoder) == {False}
    assert learning(model.encoder) == {True}


def test_a_frozen_encoder_is_its_own_target(monkeypatch):
    """Nothing moves that the target encoder could smooth, and its statistics would be those of each batch."""
    model, segment = lively(replace(TINY, target_ema=0.75, switching=0.0)), play(K + 1)
    model.encoder.eval().requires_grad_(False)
    frames = model.encode(segment.pixels)
    spy = Spy(model, monkeypatch)
    model.loss(frames, segment, generator())
    for i in range(2):
        assert torch.equal(spy.targets[i], frames[:, K + i])


def test_the_target_encoder_begins_equal_and_follows_as_a_moving_average():
    model = WorldModel(A, replace(TINY, target_ema=0.75))
    pairs = list(zip(model.target_encoder.parameters(), model.encoder.parameters(), strict=True))
    assert all(torch.equal(slow, fast) for slow, fast in pairs)
    before = [slow.clone() for slow, _ in pairs]
    with torch.no_grad():
        for _, fast in pairs:
            fast.add_(1.0)
        model.encoder.mean_image.fill_(0.5)
    model.update_target()
    model.update_target()
    for (slow, _), old in zip(pairs, before, strict=True):
        torch.testing.assert_close(slow, old + 1 - 0.75**2)
    assert (model.target_encoder.mean_image == 0.5).all()


def test_without_the_flag_there_is_no_target_encoder():
    model = lively(TINY)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.update_target()
    assert model.target_encoder is None
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    for decay in (-0.1, 1.0):
        with pytest.raises(UsageError, match="to below 1"):
            replace(TINY, target_ema=decay)


@pytest.mark.parametrize(("switching", "fed"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_ablation_fixed_and_no_switching(switching, fed, monkeypatch):
    model, segment = lively(replace(TINY, switching=switching)), play(K + 1)
    frames, seen = model.encode(segment.pixels), set()
    for seed in range(8):
        with monkeypatch.context() as patch:
            spy = Spy(model, patch)
            model.loss(frames, segment, generator(seed))
        estimated = torch.equal(spy.contexts[1][:, -1], model.encoder.clamp(spy.estimates[0]))
        assert estimated != torch.equal(spy.contexts[1][:, -1], frames[:, K])
        seen.add(estimated)
    assert seen == fed


def test_ablation_no_clamp():
    """Neither the encoder's output nor the denoiser's is bounded; with the clamp they are this, squashed."""
    free, bounded = (lively(replace(TINY, encoder=replace(TINY.encoder, clamp=clamp))) for clamp in (False, True))
    pixels = play(1).pixels
    with torch.no_grad():
        for model in (free, bounded):  # latents far apart
            model.encoder.layers[-1].conv.weight.mul_(8)
            model.denoiser.conv_out.weight.mul_(99)
        z, clamped = free.encode(pixels), bounded.encode(pixels)
    assert (z.abs() > 3).any()
    torch.testing.assert_close(clamped, 3 * torch.tanh(z / 3))
    assert torch.equal(free.encoder.clamp(z), z)
    assert (free.bound, bounded.bound) == (math.inf, 3.0)
    context = Context(z[:, :1].repeat(1, K, 1, 1, 1), torch.zeros(B, K - 1, dtype=torch.int64))
    state, _ = free.advance(free.begin(context), torch.zeros(B, dtype=torch.int64), noise())
    assert state.frames[:, -1].abs().max() > 3


ONE_PASS = replace(TINY, denoiser=replace(TINY.denoiser, diffusion=False))


def test_ablation_mean_squared_error_instead_of_diffusion(monkeypatch):
    """No noise in it; the loss is the squared error of the estimate, in units of c_out; and dreaming takes one pass."""
    model, segment = lively(replace(ONE_PASS, switching=1.0)), play(K + 1)
    frames = model.encode(segment.pixels)
    spy = Spy(model, monkeypatch)
    losses = [model.loss(frames, segment, generator(seed)).denoising for seed in (0, 1)]
    assert torch.equal(*losses)
    data, sigma = 0.5, math.hypot(20.0, 0.3)
    scale = sigma * data / math.hypot(sigma, data)
    errors = [(spy.estimates[i] - frames[:, K + i]).square().mean() / scale**2 for i in range(2)]
    torch.testing.assert_close(losses[0], torch.stack(errors).mean().detach(), rtol=1e-4, atol=1e-5)

    calls = []
    forward = model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda *args: (calls.append(args), forward(*args))[1])
    state = model.begin(Context(frames[:, :K], segment.actions[:, : K - 1]))
    after, _ = model.advance(state, segment.actions[:, K - 1], noise(), steps=3)
    assert len(calls) == 1
    torch.testing.assert_close(after.frames[:, -1], model.encoder.clamp(spy.estimates[0]), rtol=1e-4, atol=1e-4)
    again, _ = model.advance(state, segment.actions[:, K - 1], noise(count=9))
    assert torch.equal(after.frames, again.frames)  # whatever the noise


def test_without_diffusion_the_encoder_still_learns_through_the_context_alone():
    model, segment = lively(ONE_PASS), play(K)
    frames = model.encode(segment.pixels).detach().requires_grad_()
    model.loss(frames, segment, generator()).denoising.backward()
    reached = frames.grad.flatten(2).abs().sum(dim=2) > 0
    assert reached[:, :K].all()
    assert not reached[:, K].any()


def test_ablation_churned_sampler():
    """Noise is added back at every step but the schedule is the same; without churn only the start is random."""
    model, segment = lively(TINY), play(K)
    churned = WorldModel(A, replace(TINY, sampler=SamplerConfig(churn=1.0)))
    churned.load_state_dict(model.state_dict())
    context = Context(model.encode(segment.pixels[:, :K]), segment.actions[:, : K - 1])
    drawn = []

    class Counting(Scripted):
        def normal(self, shape: tuple[int, ...]) -> Tensor:
            drawn.append(shape)
            return self.start

    frames = []
    for one in (model, churned):
        script = Counting([torch.full((B,), 0.5)] * 2, torch.randn(B, *model.frame_shape, generator=generator(4)))
        state, _ = one.advance(one.begin(context), segment.actions[:, K - 1], script)
        frames.append(state.frames[:, -1])
    assert len(drawn) == 1 + (1 + 3)  # the start; the start and three steps
    assert not torch.allclose(*frames)
