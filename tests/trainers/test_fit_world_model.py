"""What the fitting of the world model changes and leaves alone: frozen encoders, statistics, probes, segments."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.encoder import PixelEncoderConfig
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, ToyGame
from trainers.collect import Collector
from trainers.fit_world_model import fit_world_model, latent_health, make_optim
from trainers.optim import Optim, OptimConfig
from trainers.policy import RandomPolicy
from trainers.replay import Replay

SETTINGS = MICRO.fit_world_model
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    replay = Replay(tmp_path_factory.mktemp("toy"))
    policy = RandomPolicy(ACTIONS, np.random.default_rng(0))
    for _ in Collector(ToyGame(), replay, life_loss=True, seed=0).collect(120, policy):
        pass
    yield replay
    replay.close()


class Fitting:
    """A world model with everything that fitting it takes."""

    def __init__(self, replay, config=SETTINGS, model_config=MICRO_MODEL, seed=0, decoder=False):
        torch.manual_seed(seed)
        self.replay, self.config = replay, config
        self.model = WorldModel(ACTIONS, model_config)
        self.optim = make_optim(self.model, config)
        self.decoder = Decoder(self.model.frame_shape, DecoderConfig(channels=4, blocks=1)) if decoder else None
        self.decoder_optim = Optim({"decoder": (self.decoder, OptimConfig(warmup=0))}) if decoder else None

    def fit(self, updates, seed=0, replay=None):
        """Fit, and return what was logged."""
        steps = fit_world_model(
            self.model,
            self.optim,
            replay or self.replay,
            self.config,
            updates,
            np.random.default_rng(seed),
            torch.Generator().manual_seed(seed),
            self.decoder,
            self.decoder_optim,
        )
        return list(steps)

    def snapshot(self, part=None):
        return {name: tensor.clone() for name, tensor in (part or self.model).state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_every_part_learns_and_the_losses_fall(replay):
    fitting = Fitting(replay)
    before = fitting.snapshot()
    logged = fitting.fit(60)
    assert len(logged) == fitting.optim.updates == 60
    after = fitting.snapshot()
    for part in ("encoder", "denoiser", "reward_end"):
        assert not same(*({k: v for k, v in state.items() if k.startswith(part)} for state in (before, after)))
    for loss in ("loss_denoising", "loss_reward", "loss_end"):
        values = [step[loss].item() for step in logged]
        assert np.mean(values[-10:]) < np.mean(values[:10])
    assert {"grad_norm_encoder", "grad_norm_denoiser", "grad_norm_reward_end"} <= logged[0].keys()
    assert not any(value.requires_grad for step in logged for value in step.values())


def test_what_is_descended_is_logged_and_nothing_else(replay):
    always = {"loss_denoising", "loss_reward", "loss_end", "loss_decoder"}
    for more, model in (
        (set(), replace(MICRO_MODEL, covariance_weight=0.0)),
        ({"covariance"}, replace(MICRO_MODEL, covariance_weight=0.5)),
        ({"loss_reconstruction"}, replace(MICRO_MODEL, covariance_weight=0.0, encoder_learns_from_reconstruction=True)),
    ):
        fitting = Fitting(replay, model_config=model, decoder=True)
        fitting.model.attach_decoder(fitting.decoder)
        logged = fitting.fit(1)[0]
        assert {name for name in logged if not name.startswith("grad_norm")} == always | more
        assert all(logged[name] > 0 for name in more)


def test_the_same_generators_give_the_same_model_and_others_another(replay):
    first, second, other = Fitting(replay), Fitting(replay), Fitting(replay)
    for fitting, seed in ((first, 1), (second, 1), (other, 2)):
        fitting.fit(3, seed)
    assert same(first.snapshot(), second.snapshot())
    assert not same(first.snapshot(), other.snapshot())


@pytest.mark.parametrize("freeze_encoder_after", [0, 3, 4])
def test_the_model_is_left_in_evaluation_mode_calibrated_on_the_replay(replay, freeze_encoder_after):
    fitting = Fitting(replay, replace(SETTINGS, freeze_encoder_after=freeze_encoder_after))
    fitting.fit(4)
    encoder = fitting.model.encoder
    assert not any(module.training for module in fitting.model.modules())
    pixels = torch.from_numpy(replay.pixels[~replay.steps["last"]].copy())
    with torch.no_grad():
        features = encoder._features(pixels)
    std, mean = torch.std_mean(features, dim=0, correction=0)
    # 1,500 draws of 119 observations: the statistics are nearly those of the whole.
    assert torch.allclose(encoder.latent_mean, mean, atol=0.2 * std.max().item())
    assert torch.allclose(encoder.latent_std, std, atol=0.2 * std.max().item())
    assert std.max() > 1e-3


def test_fitting_no_updates_still_leaves_it_calibrated_and_in_evaluation_mode(replay):
    fitting = Fitting(replay)
    weights = {name: p.detach().clone() for name, p in fitting.model.named_parameters()}
    assert fitting.fit(0) == []
    assert all(torch.equal(p, weights[name]) for name, p in fitting.model.named_parameters())
    assert not fitting.model.training
    assert not torch.equal(fitting.model.encoder.latent_std, torch.ones(fitting.model.frame_shape))


@pytest.mark.parametrize("epochs", [[7], [3, 4], [5, 2], [3, 0, 2, 2], [2, 0, 0, 5], [1, 1, 1, 4]])
def test_a_frozen_encoder_stands_still_weights_and_statistics(replay, epochs):
    """Frozen after 3 updates, wherever the borders of the epochs are."""
    fitting = Fitting(replay, replace(SETTINGS, freeze_encoder_after=3))
    frozen = None
    for epoch, updates in enumerate(epochs):
        before, rest = fitting.snapshot(fitting.model.encoder), fitting.snapshot(fitting.model.denoiser)
        first = fitting.optim.updates
        fitting.fit(updates, seed=epoch)
        after = fitting.snapshot(fitting.model.encoder)
        if first < 3:
            assert not same(before, after)
        else:
            assert same(after, frozen)
            assert not any(parameter.requires_grad for parameter in fitting.model.encoder.parameters())
            assert updates == 0 or not same(rest, fitting.snapshot(fitting.model.denoiser))
        frozen = after if fitting.optim.updates >= 3 else None
        assert not fitting.model.training


def test_the_encoder_is_frozen_after_exactly_that_many_updates(replay):
    free = Fitting(replay)
    free.fit(3)
    three = [parameter.detach().clone() for parameter in free.model.encoder.parameters()]
    frozen = Fitting(replay, replace(SETTINGS, freeze_encoder_after=3))
    frozen.fit(8)
    assert all(torch.equal(a, b) for a, b in zip(frozen.model.encoder.parameters(), three, strict=True))


def test_once_frozen_it_encodes_in_fitting_as_it_does_in_play(replay, monkeypatch):
    """The denoiser then learns on the very latents that the agent sees."""
    fitting = Fitting(replay, replace(SETTINGS, freeze_encoder_after=2))
    fitting.fit(2)
    seen = []
    loss = fitting.model.loss
    monkeypatch.setattr(
        fitting.model,
        "loss",
        lambda frames, segment, *rest: (seen.append((frames, segment)), loss(frames, segment, *rest))[1],
    )
    fitting.fit(2, seed=1)
    for frames, segment in seen:
        with torch.no_grad():
            torch.testing.assert_close(frames, fitting.model.encode(segment.pixels), atol=2e-3, rtol=0)  # kept in half


def test_a_frozen_run_resumed_equals_one_that_went_on(replay):
    config = replace(SETTINGS, freeze_encoder_after=2)
    whole = Fitting(replay, config)
    whole.fit(3, seed=0)
    resumed = Fitting(replay, config, seed=5)
    resumed.model.load_state_dict(whole.snapshot())
    resumed.optim.load_state_dict(whole.optim.state_dict())
    for fitting in (whole, resumed):
        fitting.fit(3, seed=1)
    assert same(whole.snapshot(), resumed.snapshot())


def test_the_encoder_learns_slower_by_its_factor(replay):
    """AdamW's first step is as long as the rate: the encoder's is 0.3 of the denoiser's."""
    settings = replace(
        SETTINGS,
        denoiser=OptimConfig(lr=1e-3, weight_decay=0.0, warmup=0),
        reward_end=OptimConfig(lr=5e-3, weight_decay=0.0, warmup=0),
        encoder_lr_factor=0.3,
    )
    fitting = Fitting(replay, settings)
    before = {name: parameter.detach().clone() for name, parameter in fitting.model.named_parameters()}
    fitting.fit(1)
    longest = {
        part: max(
            (parameter - before[name]).abs().max().item()
            for name, parameter in fitting.model.named_parameters()
            if name.startswith(part)
        )
        for part in ("encoder", "denoiser", "reward_end")
    }
    assert longest == pytest.approx({"encoder": 3e-4, "denoiser": 1e-3, "reward_end": 5e-3}, rel=0.01)


def test_the_default_factor_is_the_papers():
    assert type(SETTINGS)().encoder_lr_factor == 0.3


@pytest.mark.parametrize(("reward_end_length", "lengths"), [(0, [3]), (5, [3, 5])])
def test_the_reward_model_reads_segments_of_its_own_length(replay, monkeypatch, reward_end_length, lengths):
    fitting = Fitting(replay, replace(SETTINGS, reward_end_length=reward_end_length))
    drawn, given = [], []
    draw, loss = Replay.draw, fitting.model.loss
    monkeypatch.setattr(
        Replay, "draw", lambda self, b, length, *rest: (drawn.append((b, length)), draw(self, b, length, *rest))[1]
    )
    monkeypatch.setattr(fitting.model, "loss", lambda *args: (given.append(args), loss(*args))[1])
    fitting.fit(2)
    assert drawn == [(4, length) for length in lengths] * 2  # context 2 + 2 denoising steps - 1 = 3 transitions
    for frames, segment, _, (sequence_frames, sequence), _ in given:
        assert frames.shape[1] == segment.actions.shape[1] + 1 == 4
        assert sequence_frames.shape[1] == sequence.actions.shape[1] + 1 == lengths[-1] + 1
        assert (sequence is segment) == (reward_end_length == 0)


def read(fitting, monkeypatch, updates, seed=0):
    """Fit, and return the segments that the denoiser and the reward/termination model learned from, in pairs."""
    given, loss = [], fitting.model.loss
    monkeypatch.setattr(fitting.model, "loss", lambda *args: (given.append(args), loss(*args))[1])
    fitting.fit(updates, seed)
    return [((frames, segment), sequence) for frames, segment, _, sequence, _ in given]


def test_the_reward_model_reads_dreamed_frames_once_the_encoder_is_frozen(replay, monkeypatch):
    config = replace(
        SETTINGS, freeze_encoder_after=3, reward_end_length=0, reward_end_switching=1.0, dreamed_steps=4, batch=16
    )
    fitting = Fitting(replay, config)
    first, *_, last = read(fitting, monkeypatch, 5)
    assert first[0] == first[1]
    frames, segment = last[1]
    assert segment.actions.shape == (16, 5)  # the context's 2 frames, and 4 dreamed
    with torch.no_grad():
        real = fitting.model.encode(segment.pixels)
    torch.testing.assert_close(frames[:, :2], real[:, :2], atol=2e-3, rtol=0)  # kept in half
    changed = (frames[:, 2:] - real[:, 2:]).abs().amax(dim=(2, 3, 4)) > 2e-3
    assert torch.equal(changed, segment.mask[:, 1:])
    assert 0 < segment.mask[:, 1:].sum() < segment.mask[:, 1:].numel()


def test_what_was_cast_for_a_dream_is_cast_anew_for_the_loss(replay, monkeypatch):
    """Older PyTorch would else give the denoiser no gradients: it keeps casts made without them (pytorch#165068)."""
    config = replace(SETTINGS, freeze_encoder_after=1, reward_end_switching=1.0, precision_bf16=True)
    fitting, done = Fitting(replay, config), []
    fitting.fit(1)

    def told(owner, name):
        does = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (done.append(name), does(*args))[1])

    told(fitting.model, "dreamed")
    told(fitting.model, "loss")
    told(torch, "clear_autocast_cache")
    fitting.fit(1, seed=1)
    assert done[done.index("dreamed") : done.index("loss") + 1] == ["dreamed", "clear_autocast_cache", "loss"]
    assert all(weight.grad is not None for weight in fitting.model.denoiser.parameters())


def test_a_last_frame_that_is_not_read_is_not_dreamed(replay, monkeypatch):
    model = replace(MICRO_MODEL, reward_end=replace(MICRO_MODEL.reward_end, sees_next=False))
    config = replace(
        SETTINGS, freeze_encoder_after=1, reward_end_length=0, reward_end_switching=1.0, dreamed_steps=4, batch=16
    )
    fitting = Fitting(replay, config, model)
    frames, segment = read(fitting, monkeypatch, 2)[1][1]
    with torch.no_grad():
        real = fitting.model.encode(segment.pixels)
        logits = [fitting.model.read(of, segment.actions)[0].reward for of in (frames, frames.roll(1, 0))]
        logits.append(fitting.model.read(torch.cat((frames[:, :-1], real[:, :1]), dim=1), segment.actions)[0].reward)
    changed = (frames[:, 2:] - real[:, 2:]).abs().amax(dim=(2, 3, 4)) > 2e-3
    assert torch.equal(changed[:, :-1], segment.mask[:, 1:-1])
    assert not changed[:, -1].any()
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("switching", "least", "most"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_switching_is_the_share_of_batches_that_are_dreamed(replay, monkeypatch, switching, least, most):
    fitting = Fitting(replay, replace(SETTINGS, freeze_encoder_after=1, reward_end_switching=switching))
    fitting.fit(1)
    dreamed, count = fitting.model.dreamed, []
    monkeypatch.setattr(fitting.model, "dreamed", lambda *args: (count.append(args), dreamed(*args))[1])
    fitting.fit(40, seed=1)
    assert least <= len(count) <= most


@pytest.mark.parametrize("switching", [0.0, 1.0])
def test_segments_that_may_be_dreamed_are_drawn_uniformly(replay, monkeypatch, switching):
    """No event more often than it happens: the reward model would foresee it too often."""
    sampling = replace(SETTINGS.sampling, age_weights=(), event_fraction=1.0)
    config = replace(
        SETTINGS,
        sampling=sampling,
        freeze_encoder_after=1,
        reward_end_switching=switching,
        reward_end_length=0,
        batch=32,
    )
    fitting = Fitting(replay, config)
    fitting.fit(1)
    pairs = read(fitting, monkeypatch, 20, seed=1)
    denoised, sequences = (torch.cat([p[side][1].rewards.flatten() for p in pairs]) for side in (0, 1))
    masks = (torch.cat([p[side][1].mask.flatten() for p in pairs]) for side in (0, 1))
    often, rarely = (
        (rewards[mask] != 0).float().mean() for rewards, mask in zip((denoised, sequences), masks, strict=True)
    )
    real = (replay.steps["reward"][~replay.steps["last"]] != 0).mean()
    assert rarely < real + 0.05 if switching else rarely == often
    assert often > real + 0.1


def test_the_probe_changes_nothing_of_the_world_model(replay):
    without, probed = Fitting(replay), Fitting(replay, decoder=True)
    drawing = probed.snapshot(probed.decoder)
    for fitting in (without, probed):
        fitting.fit(5)
    assert same(without.snapshot(), probed.snapshot())
    assert not same(drawing, probed.snapshot(probed.decoder))


def test_the_probe_learns_every_so_many_updates(replay):
    probed = Fitting(replay, decoder=True)  # every 2
    logged = probed.fit(5)
    assert ["loss_decoder" in step for step in logged] == [True, False, True, False, True]
    assert probed.decoder_optim.updates == 3
    logged = probed.fit(3, seed=1)  # it counts through
    assert ["loss_decoder" in step for step in logged] == [False, True, False]


def test_latents_health_shows_a_collapse(replay):
    fitting = Fitting(replay)
    fitting.fit(2)
    healthy = latent_health(fitting.model, replay, np.random.default_rng(0), CPU)
    assert set(healthy) == {"latent_std", "latent_rank"}
    assert healthy["latent_rank"] > 2
    assert 0.1 < healthy["latent_std"] < 1  # standardised to 0.5
    with torch.no_grad():
        for parameter in fitting.model.encoder.parameters():
            parameter.zero_()
    collapsed = latent_health(fitting.model, replay, np.random.default_rng(0), CPU)
    assert collapsed["latent_std"] < 1e-6
    assert collapsed["latent_rank"] < 1.5


def test_a_pixel_model_is_fitted_too(replay):
    config = replace(MICRO_MODEL, encoder=PixelEncoderConfig())
    config = replace(
        config,
        reward_end=replace(
            config.reward_end, channels=(4, 4, 4), depths=(1,) * 3, attention=(False,) * 3, down=(True,) * 3
        ),
    )
    fitting = Fitting(replay, replace(SETTINGS, reward_end_length=0), config)
    before = fitting.snapshot()
    (step,) = fitting.fit(1)
    assert not same(before, fitting.snapshot())
    assert "grad_norm_encoder" not in step


def test_bfloat16_leaves_the_weights_and_frames_in_float32(replay, monkeypatch):
    fitting = Fitting(replay, replace(SETTINGS, precision_bf16=True))
    products = []
    monkeypatch.setattr(fitting.model.denoiser.conv_out, "forward", _spy(fitting.model.denoiser.conv_out, products))
    fitting.fit(1)
    assert products[0] == torch.bfloat16
    assert {tensor.dtype for tensor in fitting.model.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        assert fitting.model.encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).dtype == torch.float32


def _spy(module, products):
    forward = module.forward

    def spied(x):
        out = forward(x)
        products.append(out.dtype)
        return out

    return spied
