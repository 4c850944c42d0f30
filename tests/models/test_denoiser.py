"""The denoiser: what its preconditioning is for, and what the denoising loss does and does not depend on."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jedi_env.errors import UsageError
from jedi_env.models.denoiser import Conditioning, Denoiser, DenoiserConfig

SMALL = DenoiserConfig(channels=(16,), middle_attention=True, cond_channels=32)
B, K, C, H, A = 5, 4, 3, 4, 6


class Recorder(Denoiser):
    """A denoiser whose network answers 0, and remembers what it was asked."""

    def forward(self, scaled: Tensor, noise: Tensor, given: Conditioning) -> Tensor:
        self.scaled, self.noise, self.given = scaled, noise, given
        return torch.zeros_like(scaled)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(module: nn.Module) -> nn.Module:
    """Redraw the weights, so that no layer is zero as some are at the start."""
    g = generator(1)
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 25
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / math.sqrt(fan))
    return module


def one_step(
    module: Denoiser, target: Tensor, context: Tensor, actions: Tensor, mask: Tensor, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return loss and estimate of a single step, whose tensors have no axis of steps."""
    loss, estimate = module.loss(target[:, None], context[:, None], actions[:, None], mask[:, None], g)
    return loss, estimate[:, 0]


@pytest.fixture
def denoiser() -> Denoiser:
    return lively(Denoiser(C, K, A, SMALL))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target, context, actions, mask."""
    g = generator()
    frames = 0.5 * torch.randn(B, K + 1, C, H, H, generator=g)
    actions = torch.randint(A, (B, K), generator=g)
    return frames[:, K], frames[:, :K], actions, torch.ones(B, dtype=torch.bool)


@given(st.floats(1e-3, 50), st.floats(0.05, 3), st.floats(0, 2))
def test_the_preconditioning_does_what_karras_et_al_ask_of_it(sigma, data, offset):
    """Their three demands (appendix B.6), for data of variance ``data^2`` and all the noise there is."""
    recorder = Recorder(C, K, A, replace(SMALL, sigma_data=data, offset_noise=offset))
    c = recorder.coefficients(torch.tensor([sigma], dtype=torch.float64))
    skip, out, into = (x.item() for x in (c.skip, c.out, c.into))
    noise = sigma**2 + offset**2

    def error(skip: float) -> float:
        """The variance of clean - skip * noisy: what is left for the network to say."""
        return (1 - skip) ** 2 * data**2 + skip**2 * noise

    assert into**2 * (data**2 + noise) == pytest.approx(1)  # the network's input has unit variance,
    assert error(skip) / out**2 == pytest.approx(1)  # so has what it should say,
    assert error(skip) <= min(error(skip + 1e-3), error(skip - 1e-3))  # and as little as possible hangs on it
    assert out > 0


def test_no_noise_needs_no_network_and_much_noise_leaves_it_all():
    module = lively(Denoiser(C, K, A, replace(SMALL, offset_noise=0.0)))
    noisy = torch.randn(B, C, H, H, generator=generator())
    given_context = module.condition(torch.zeros(B, K, C, H, H), torch.zeros(B, K, dtype=torch.int64))
    little, much = torch.full((B,), 1e-4), torch.full((B,), 1e5)
    torch.testing.assert_close(module.denoise(noisy, little, given_context), noisy, atol=2e-3, rtol=0)
    c = module.coefficients(much)
    alone = SMALL.sigma_data * module(c.into * noisy, c.noise, given_context)
    torch.testing.assert_close(module.denoise(noisy, much, given_context), alone, atol=1e-5, rtol=1e-4)


def test_a_silent_network_denoises_like_a_gaussian_s_posterior_mean(batch):
    recorder = Recorder(C, K, A, replace(SMALL, sigma_data=0.8, offset_noise=0.3))
    target, context, actions, _ = batch
    got = recorder.denoise(target, torch.full((B,), 0.4), recorder.condition(context, actions))
    torch.testing.assert_close(got, target * 0.8**2 / (0.8**2 + 0.4**2 + 0.3**2))


@pytest.mark.parametrize(("data", "offset"), [(0.5, 0.3), (1.0, 0.0), (0.2, 1.0)])
def test_a_silent_network_s_loss_is_one_at_every_noise_level(data, offset):
    """Monte Carlo of the whole loss: unit variance only if the noise is what the preconditioning assumes."""
    for level in (0.05, 0.5, 5.0):
        config = replace(SMALL, sigma_data=data, offset_noise=offset, sigma_low=level, sigma_high=level)
        recorder, n = Recorder(2, 1, A, config), 4000
        target = data * torch.randn(n, 2, 4, 4, generator=generator(1))
        actions, mask = torch.zeros(n, 1, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
        loss, estimate = one_step(recorder, target, target[:, None], actions, mask, generator(2))
        assert loss.item() == pytest.approx(1, abs=0.05)
        assert recorder.scaled.square().mean().item() == pytest.approx(1, abs=0.05)
        noise = level**2 + offset**2
        posterior_variance = data**2 * noise / (data**2 + noise)
        assert (estimate - target).square().mean().item() == pytest.approx(posterior_variance, rel=0.05)


def test_offset_noise_moves_a_whole_channel_alike():
    config = replace(SMALL, offset_noise=0.7, sigma_low=1e-6, sigma_high=1e-6)
    recorder, n = Recorder(3, 1, A, config), 2000
    target = torch.randn(n, 3, 4, 4, generator=generator())
    actions, mask = torch.zeros(n, 1, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
    one_step(recorder, target, target[:, None], actions, mask, generator())
    noise = recorder.scaled / recorder.coefficients(torch.full((n,), 1e-6)).into - target
    assert noise.std(dim=(2, 3)).max() < 1e-4
    channels = noise.mean(dim=(2, 3))
    assert channels.std().item() == pytest.approx(0.7, rel=0.05)
    assert torch.corrcoef(channels.T).fill_diagonal_(0).abs().max() < 0.1


def test_training_noise_levels_are_log_normal_and_cut_off():
    config = replace(SMALL, offset_noise=0.0, sigma_low=0.02, sigma_high=8.0)
    recorder, n = Recorder(1, 1, A, config), 20_000
    target, actions = torch.zeros(n, 1, 2, 2), torch.zeros(n, 1, dtype=torch.int64)
    one_step(recorder, target, target[:, None], actions, torch.ones(n, dtype=torch.bool), generator())
    sigma = (4 * recorder.noise).exp()  # c_noise = ln(sigma) / 4
    assert sigma.min().item() == pytest.approx(0.02, rel=1e-3)
    assert sigma.max().item() == pytest.approx(8.0, rel=1e-3)
    for z in (-1.5, -0.5, 0.0, 0.5, 1.5):
        share = (sigma < math.exp(-0.4 + 1.2 * z)).double().mean().item()
        assert share == pytest.approx((1 + math.erf(z / math.sqrt(2))) / 2, abs=0.015)


def test_the_digested_context_is_one_convolution_of_everything(denoiser, batch):
    target, context, actions, _ = batch
    captured = []
    denoiser.unet.register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    denoiser(target, torch.zeros(B), denoiser.condition(context, actions))
    together = torch.cat((context.reshape(B, K * C, H, H) / SMALL.sigma_data, target), dim=1)
    torch.testing.assert_close(captured[0], denoiser.conv_in(together), atol=1e-5, rtol=1e-5)


def test_every_action_and_every_frame_of_the_context_matters_in_its_place(denoiser, batch):
    target, context, actions, _ = batch

    def answer(context: Tensor, actions: Tensor) -> Tensor:
        return denoiser(target, torch.zeros(B), denoiser.condition(context, actions))

    said = [answer(context, actions), answer(context.flip(1), actions), answer(context, actions.flip(1))]
    for k in range(K):
        other = actions.clone()
        other[:, k] = (other[:, k] + 1) % A
        said.append(answer(context, other))
        said.append(answer(context.index_fill(1, torch.tensor(k), 0.0), actions))
    for i, a in enumerate(said):
        assert not any(torch.allclose(a, b, atol=1e-4) for b in said[i + 1 :])


def test_lanes_do_not_mix(denoiser, batch):
    target, context, actions, _ = batch
    sigma = torch.linspace(0.1, 2, B)
    whole = denoiser.denoise(target, sigma, denoiser.condition(context, actions))
    for lane in range(B):
        one = slice(lane, lane + 1)
        alone = denoiser.denoise(target[one], sigma[one], denoiser.condition(context[one], actions[one]))
        torch.testing.assert_close(alone, whole[one], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context_noise", [0.0, 0.3])
def test_the_loss_reaches_the_context_and_not_the_target(context_noise, denoiser, batch):
    target, context, actions, mask = batch
    denoiser.config = replace(SMALL, context_noise=context_noise)
    target, context = target.clone().requires_grad_(), context.clone().requires_grad_()
    loss, estimate = one_step(denoiser, target, context, actions, mask, generator())
    loss.backward()
    assert target.grad is None
    assert context.grad is not None
    assert (context.grad.flatten(2).abs().sum(dim=2) > 0).all()  # every frame of every lane
    assert not estimate.requires_grad
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in denoiser.parameters())


def test_the_loss_is_the_weighted_error_of_the_estimate(denoiser, batch):
    """F's error divided by c_out is D's error: the loss is |D - z|^2 / c_out^2."""
    target, context, actions, mask = batch
    denoiser.config = replace(SMALL, sigma_low=0.7, sigma_high=0.7)
    loss, estimate = one_step(denoiser, target, context, actions, mask, generator())
    out = denoiser.coefficients(torch.tensor([0.7])).out.item()
    assert loss.item() == pytest.approx((estimate - target).square().mean().item() / out**2, rel=1e-4)


@given(st.lists(st.booleans(), min_size=B, max_size=B))
def test_a_masked_lane_changes_neither_loss_nor_gradient(mask):
    denoiser = lively(Denoiser(C, K, A, SMALL))
    g = generator()
    frames, scrambled = torch.randn(2, B, K + 1, C, H, H, generator=g)
    keep = torch.tensor(mask)[:, None]
    scrambled = torch.where(keep[..., None, None, None], frames, scrambled)
    actions = torch.randint(A, (B, K), generator=g)
    results = []
    for content, acts in ((frames, actions), (scrambled, torch.where(keep, actions, 0))):
        denoiser.zero_grad()
        loss, _ = one_step(denoiser, content[:, K], content[:, :K], acts, keep[:, 0], generator(3))
        loss.backward()
        results.append((loss.item(), [parameter.grad.clone() for parameter in denoiser.parameters()]))
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == pytest.approx(other_loss, rel=1e-6)
    assert (loss == 0) == (not any(mask))
    for one, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def test_the_mean_is_over_the_lanes_that_count(denoiser, batch):
    target, context, actions, _ = batch
    each = torch.stack(
        [
            one_step(denoiser, target, context, actions, F.one_hot(torch.tensor(i), B).bool(), generator())[0]
            for i in range(B)
        ]
    )
    mask = torch.tensor([True, False, True, True, False])
    loss, _ = one_step(denoiser, target, context, actions, mask, generator())
    assert loss.item() == pytest.approx(each[mask].mean().item(), rel=1e-5)


def test_steps_count_alike_and_do_not_mix(denoiser):
    """Their mean, however many lanes count in each; a step in which none does is one without error."""
    denoiser.config = replace(SMALL, diffusion=False)  # so that no noise tells them apart
    g = generator()
    targets, contexts = torch.randn(B, 3, C, H, H, generator=g), torch.randn(B, 3, K, C, H, H, generator=g)
    actions = torch.randint(A, (B, 3, K), generator=g)
    mask = torch.tensor([[True, True, False], [True, False, False], *[[True, True, False]] * (B - 2)])
    loss, estimates = denoiser.loss(targets, contexts, actions, mask, g)
    each = [one_step(denoiser, *(x[:, t] for x in (targets, contexts, actions, mask)), g) for t in range(3)]
    assert loss.item() == pytest.approx(sum(alone.item() for alone, _ in each) / 3, rel=1e-5)
    assert each[0][0] > 0
    assert each[2][0] == 0
    torch.testing.assert_close(estimates, torch.stack([alone for _, alone in each], dim=1), atol=1e-5, rtol=1e-5)


def test_every_step_has_a_noise_level_and_noise_of_its_own(batch):
    target, context, actions, mask = batch
    recorder = Recorder(C, K, A, replace(SMALL, offset_noise=0.0))
    recorder.loss(*(torch.stack((x, x), dim=1) for x in (target, context, actions, mask)), generator())
    sigma = (4 * recorder.noise).exp()
    assert len(sigma.unique()) == 2 * B
    into = recorder.coefficients(sigma).into
    noise = (recorder.scaled / into - target.repeat_interleave(2, dim=0)) / sigma[:, None, None, None]
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.6


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_context_noise_is_in_units_of_sigma_data(level, batch):
    config = replace(SMALL, context_noise=level, sigma_data=0.25)
    quiet, loud = Recorder(1, K, A, replace(config, context_noise=0.0)), Recorder(1, K, A, config)
    loud.load_state_dict(quiet.state_dict())
    with torch.no_grad():  # a convolution that shows its input: every context frame's centre, in a channel of its own
        for module in (quiet, loud):
            module.conv_in.weight.zero_()
            for k in range(K):
                module.conv_in.weight[k, k, 1, 1] = 1
    target, actions = torch.zeros(500, 1, H, H), torch.zeros(500, K, dtype=torch.int64)
    for module in (quiet, loud):
        one_step(module, target, torch.zeros(500, K, 1, H, H), actions, torch.ones(500, dtype=torch.bool), generator())
    noise = (loud.given.features - quiet.given.features)[:, :K]
    assert noise.std().item() == pytest.approx(level, rel=0.05)  # of frames that were divided by sigma_data


def test_the_same_generator_gives_the_same_loss(denoiser, batch):
    first, again, other = (one_step(denoiser, *batch, generator(seed))[0].item() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("frame_channels", "config", "parameters"),
    [
        (16, DenoiserConfig(), 4_334_192),  # JEDI
        (3, DenoiserConfig(channels=(64,) * 4, depths=(2,) * 4, attention=(False,) * 4), 4_406_851),  # DIAMOND
    ],
)
def test_the_papers_sizes(frame_channels, config, parameters):
    assert sum(p.numel() for p in Denoiser(frame_channels, 4, 18, config).parameters()) == parameters


@pytest.mark.parametrize(("length", "cond"), [(3, 32), (3, 9), (1, 7)])
def test_a_condition_that_cannot_be_shared_is_refused(length, cond):
    with pytest.raises(UsageError, match=r"multiple of [26]\."):
        Denoiser(C, length, A, replace(SMALL, cond_channels=cond))
    Denoiser(C, length, A, replace(SMALL, cond_channels=12))


@pytest.mark.parametrize("levels", [(1.0, 0.5), (0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_levels_that_cannot_be_drawn_are_refused(levels):
    with pytest.raises(UsageError, match=r"sigma_low is .*the lower no more than the higher"):
        DenoiserConfig(sigma_low=levels[0], sigma_high=levels[1])
