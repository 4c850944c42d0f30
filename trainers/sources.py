"""Where every setting of the two papers' presets comes from: what is said, who says it, why we assume the rest.

``docs/papers.md`` is written from these tables and ``jedi-env train --dry-run`` prints from them; the values themselves
are only in ``presets.py`` and the dataclasses. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jedi_env.config_json import to_json
from jedi_env.envs.atari import AtariProtocol
from jedi_env.models.blocks import GROUP_SIZE, HEAD_CHANNELS, NORM_EPS
from trainers.config import TrainConfig
from trainers.presets import DIAMOND, PAPER

IN_JEDI, IN_DIAMOND, IN_BOTH = "JEDI", "DIAMOND", "JEDI and DIAMOND"
IN_CODE, ASSUMED, OURS = "DIAMOND's code", "assumed", "ours"
UNKNOWN = "not known"


@dataclass(frozen=True)
class Source:
    """Where a value comes from.

    Attributes:
        says: what the source says.
        source: JEDI (arXiv 2605.13013), DIAMOND (arXiv 2405.12399), DIAMOND's code (eloialonso/diamond at 5bcd159),
            assumed, or ours.
        why: of what is assumed or ours.
    """

    says: str
    source: str
    why: str = ""


@dataclass(frozen=True)
class Setting:
    """One resolved setting.

    Attributes:
        path: of the setting, which is its flag too.
        value: as JSON.
        source: of the paper's value.
        paper: the paper's value where this one differs from it; else None.
    """

    path: str
    value: Any
    source: Source
    paper: Any = None

    @property
    def origin(self) -> str:
        """The source in words, or what the paper's value would be."""
        if self.paper is not None:
            return f"chosen; the paper's preset: {shown(self.paper)}"
        if self.source.says.startswith(UNKNOWN):
            return f"{self.source.source}; JEDI's is {UNKNOWN}"
        return f"{OURS}: {self.source.why}" if self.source.source == OURS else self.source.source


# Said by both papers.
_BOTH = {
    "world_model.context_length": "4 frames and 4 actions; so long is the burn-in of both LSTMs too",
    "world_model.sampler.steps": "3 denoising steps",
    "world_model.sampler.order": "Euler",
    "world_model.sampler.churn": "0; 1 in JEDI's stochastic runs alone (preset stochastic)",
    "collect.total_steps": "100k steps",
    "fit_agent.horizon": "15",
    "fit_agent.gamma": "0.985",
    "fit_agent.lambda_": "0.95",
    "fit_agent.entropy_weight": "0.001",
    "frame_skip": "4",
}

# Said by DIAMOND (paper or code) and not known of JEDI: (what, where, why JEDI has it too).
_LOOP = "JEDI's Algorithm 1 is DIAMOND's loop"
_NET = "JEDI says nothing else of the networks"
_INHERITED = {
    "world_model.denoiser.middle_attention": ("both middle blocks attend", IN_CODE, _NET),
    "world_model.denoiser.cond_channels": ("256", IN_CODE, "with it the parameters add up to JEDI's 13.5M"),
    "world_model.denoiser.sigma_data": ("0.5", IN_DIAMOND, "latents reach 3, so this is the least certain of all"),
    "world_model.denoiser.mean_log_sigma": ("-0.4", IN_DIAMOND, "JEDI says log-normal"),
    "world_model.denoiser.std_log_sigma": ("1.2", IN_DIAMOND, "JEDI says log-normal"),
    "world_model.denoiser.sigma_low": ("2e-3", IN_CODE, "JEDI says log-normal"),
    "world_model.denoiser.sigma_high": ("20", IN_CODE, "JEDI says log-normal"),
    "world_model.denoiser.offset_noise": ("0.3", IN_CODE, "nothing in JEDI speaks against it"),
    "world_model.sampler.sigma_min": ("2e-3", IN_CODE, "same solver, same three steps"),
    "world_model.sampler.sigma_max": ("5", IN_CODE, "same solver, same three steps"),
    "world_model.sampler.rho": ("7", IN_CODE, "same solver, same three steps"),
    "world_model.sampler.start_std": ("1", IN_CODE, "same solver, same three steps"),
    "world_model.reward_end.attention": ("none", IN_CODE, _NET),
    "world_model.reward_end.middle_attention": ("two attending blocks at the end", IN_CODE, _NET),
    "world_model.reward_end.cond_channels": ("128", IN_CODE, _NET),
    "world_model.reward_end.lstm_dim": ("512", IN_CODE, "with it the parameters add up to JEDI's 13.5M"),
    "world_model.reward_end.sees_next": (
        "frame, action and next frame",
        IN_CODE,
        "JEDI's equation writes R(z_t) alone",
    ),
    "agent.channels": ("32, 32, 64, 64", IN_CODE, "with it the parameters add up to JEDI's 13.5M"),
    "agent.lstm_dim": ("512", IN_CODE, "with it the parameters add up to JEDI's 13.5M"),
    "agent.frame_stack": ("1", IN_CODE, "the LSTM remembers"),
    "collect.first_steps": (
        "5,000 before the first epoch and 100 in it, none of them learned from yet",
        IN_CODE,
        _LOOP,
    ),
    "collect.first_steps_limit": ("10,000, and the 100 of the first epoch", IN_CODE, _LOOP),
    "collect.first_rewards": ("10 steps with one of the two rarer reward signs", IN_CODE, _LOOP),
    "collect.steps": ("100", IN_DIAMOND, _LOOP),
    "collect.epsilon": ("0.01; 0 in evaluation", IN_DIAMOND, _LOOP),
    "collect.life_loss": ("a lost life ends a training episode", IN_CODE, "the benchmark's custom"),
    "fit_world_model.first_updates": ("10,000 of either model", IN_CODE, _LOOP),
    "fit_world_model.updates": ("400 of each model", IN_DIAMOND, _LOOP),
    "fit_world_model.denoising_steps": ("1 and 1 autoregressive: 6 frames", IN_CODE, "the least that switching needs"),
    "fit_world_model.reward_end_length": ("19 frames, that is 18 transitions", IN_CODE, _LOOP),
    "fit_world_model.denoiser.lr": ("1e-4", IN_DIAMOND, "JEDI gives the encoder's factor and no base"),
    "fit_world_model.denoiser.weight_decay": ("1e-2, none on biases, norms, embeddings", IN_DIAMOND, _LOOP),
    "fit_world_model.denoiser.max_grad_norm": ("1", IN_CODE, "the encoder is clipped to the same, by itself"),
    "fit_world_model.denoiser.warmup": ("100", IN_CODE, _LOOP),
    "fit_world_model.reward_end.lr": ("1e-4", IN_DIAMOND, _LOOP),
    "fit_world_model.reward_end.weight_decay": ("1e-2, none on biases, norms, embeddings", IN_DIAMOND, _LOOP),
    "fit_world_model.reward_end.max_grad_norm": ("100", IN_CODE, _LOOP),
    "fit_world_model.reward_end.warmup": ("100", IN_CODE, _LOOP),
    "fit_world_model.sampling.age_weights": ("quarters of the episodes by age: .1 .1 .1 .7", IN_CODE, _LOOP),
    "fit_agent.first_updates": ("5,000", IN_CODE, _LOOP),
    "fit_agent.updates": ("400", IN_DIAMOND, _LOOP),
    "fit_agent.value_weight": ("1", IN_CODE, _LOOP),
    "fit_agent.contexts": ("8,192 starting points are kept ready", IN_CODE, "drawn anew every epoch"),
    "fit_agent.optim.lr": ("1e-4", IN_DIAMOND, _LOOP),
    "fit_agent.optim.weight_decay": ("0", IN_DIAMOND, _LOOP),
    "fit_agent.optim.max_grad_norm": ("100", IN_CODE, _LOOP),
    "fit_agent.optim.warmup": ("100", IN_CODE, _LOOP),
    "evaluate.every": ("10", IN_CODE, "a score changes nothing in training"),
    "evaluate.episodes": ("4", IN_CODE, "a score changes nothing in training"),
    "evaluate.final_episodes": ("100", IN_CODE, "a mean over fewer is noise"),
    "final_epochs": ("50, the last of 1000", IN_CODE, _LOOP),
}

# In neither paper; where it could change a result it is off.
_OURS = {
    "world_model.denoiser.context_noise": "off",
    "world_model.reward_end.shortcut": "off",
    "world_model.reward_end.frame_stack": "off: 1 is the frame alone, and the LSTM remembers",
    "world_model.reward_end.frame_noise": "off",
    "world_model.reward_end.event_weight": "off: 1 is the plain cross-entropy",
    "world_model.reward_end.symlog": "off: signs; on for `--env`",
    "world_model.covariance_weight": "off",
    "fit_world_model.sampling.event_fraction": "off",
    "fit_world_model.freeze_encoder_after": "off",
    "fit_world_model.reward_end_switching": "off",
    "fit_world_model.dreamed_steps": "only counts where reward-end-switching is above 0",
    "fit_world_model.precision_bf16": "off",
    "fit_agent.normalise_advantages": "off",
    "fit_agent.passes": "off: 1 is one gradient step an imagined rollout",
    "fit_world_model.denoiser.lr_decay": "off",
    "fit_world_model.reward_end.lr_decay": "off",
    "fit_agent.optim.lr_decay": "off",
    "decoder.channels": "the decoder draws for people; no gradient of it reaches the model",
    "decoder.blocks": "the decoder draws for people; no gradient of it reaches the model",
    "decoder.motion_weight": "the decoder draws for people; no gradient of it reaches the model",
    "bank": "starting points in the published checkpoint",
}

JEDI: Mapping[str, Source] = {
    "world_model.encoder.kind": Source("a deterministic encoder, [16, 8, 8]", IN_JEDI),
    "world_model.encoder.channels": Source("[32, 32, 32, 16]; its blocks are not known", IN_JEDI, _NET),
    "world_model.encoder.down": Source("[1, 1, 1, 0]: 64 to 8", IN_JEDI),
    "world_model.encoder.bound": Source("[-3, 3]", IN_JEDI),
    "world_model.encoder.clamp": Source("3 tanh(z/3) on the encoder's output and the denoiser's", IN_JEDI),
    "world_model.encoder.clamp_estimate": Source("tanh on the denoiser's output too", IN_JEDI),
    **{
        f"world_model.encoder.{name}": Source("nothing", OURS, why)
        for name, why in {
            "patch": "off: 1 pixel",
            "lossless_pool": "off",
            "centre": "off",
            "standardise": "off",
            "scale": "only counts where standardise is on",
        }.items()
    },
    "world_model.denoiser.channels": Source("one level of 160, no downsampling", IN_JEDI),
    "world_model.denoiser.depths": Source(
        "1 layer", IN_JEDI, "1 block a level: 4.33M; with 2 it would be 15.1M in all"
    ),
    "world_model.denoiser.attention": Source("not known (DIAMOND: none)", IN_CODE, _NET),
    "world_model.denoiser.diffusion": Source("a denoising loss; mean squared error is an ablation", IN_JEDI),
    "world_model.reward_end.channels": Source("prints [2, 2, 2, 2], which are DIAMOND's depths", ASSUMED, _NET),
    "world_model.reward_end.depths": Source("[2, 2, 2, 2], under the name of channels", IN_JEDI),
    "world_model.reward_end.down": Source(
        "not known (DIAMOND: three times)", ASSUMED, "at 8x8 none; with three it would be 9.4M in all, not 13.5M"
    ),
    "world_model.switching": Source("rs ~ Uniform{True, False}, once a batch of trajectories", IN_JEDI),
    "world_model.encoder_learns_from_denoising": Source("through the context; never through target or input", IN_JEDI),
    "world_model.encoder_learns_from_reconstruction": Source("no; an ablation", IN_JEDI),
    "world_model.separate_autoencoder": Source("no; an ablation", IN_JEDI),
    "world_model.target_ema": Source("no; an ablation", IN_JEDI),
    "agent.down": Source("not known (DIAMOND: four times)", ASSUMED, "one pool: 13.49M in all; with none 19.8M"),
    "fit_world_model.batch": Source("32 or 64, the better one a game", IN_JEDI, "DIAMOND's; 64 is a flag"),
    "fit_world_model.encoder_lr_factor": Source("0.3 of the denoiser's learning rate", IN_JEDI),
    "fit_world_model.decoder_every": Source("nothing", OURS, "the decoder draws for people"),
    "fit_agent.batch": Source("32 or 64, the better one a game", IN_JEDI, "DIAMOND's; 64 is a flag"),
    **{path: Source(says, IN_BOTH) for path, says in _BOTH.items()},
    **{path: Source(f"{UNKNOWN} (DIAMOND: {says})", where, why) for path, (says, where, why) in _INHERITED.items()},
    **{path: Source("nothing", OURS, why) for path, why in _OURS.items()},
}

_NO_ENCODER = "nothing: there is no encoder to learn"
_DIAMONDS_OWN: Mapping[str, Source] = {
    "world_model.encoder.kind": Source("the image itself, in [-1, 1]", IN_DIAMOND),
    "world_model.encoder.quantise": Source("an imagined image is rounded down to 256 levels", IN_CODE),
    "world_model.denoiser.channels": Source("[64, 64, 64, 64]", IN_CODE),
    "world_model.denoiser.depths": Source("[2, 2, 2, 2]", IN_CODE),
    "world_model.denoiser.attention": Source("none", IN_CODE),
    "world_model.denoiser.diffusion": Source("a denoising loss", IN_DIAMOND),
    "world_model.reward_end.channels": Source("[32, 32, 32, 32]", IN_CODE),
    "world_model.reward_end.depths": Source("[2, 2, 2, 2]", IN_CODE),
    "world_model.reward_end.down": Source("before every stage but the first", IN_CODE),
    "world_model.switching": Source("the model's own estimate always takes the place of the frame", IN_CODE),
    "world_model.encoder_learns_from_denoising": Source(_NO_ENCODER, IN_DIAMOND),
    "world_model.encoder_learns_from_reconstruction": Source(_NO_ENCODER, IN_DIAMOND),
    "world_model.separate_autoencoder": Source(_NO_ENCODER, IN_DIAMOND),
    "world_model.target_ema": Source(_NO_ENCODER, IN_DIAMOND),
    "agent.down": Source("after every stage", IN_CODE),
    "fit_world_model.batch": Source("32", IN_DIAMOND),
    "fit_world_model.encoder_lr_factor": Source(_NO_ENCODER, IN_DIAMOND),
    "fit_world_model.decoder_every": Source("nothing", OURS, "no decoder: the frame is the image"),
    "fit_agent.batch": Source("32", IN_DIAMOND),
}
DIAMONDS: Mapping[str, Source] = {
    **_DIAMONDS_OWN,
    **{path: Source(says, IN_DIAMOND) for path, says in _BOTH.items()},
    **{path: Source(says, where) for path, (says, where, _) in _INHERITED.items()},
    **{path: Source("nothing", OURS, why) for path, why in _OURS.items()},
}

# What no flag changes.
_PROTOCOL = asdict(AtariProtocol())
FIXED: tuple[tuple[str, Any, Source], ...] = (
    ("pixels a side", _PROTOCOL["size"], Source("64x64 RGB", IN_BOTH)),
    ("most no-ops at a start", _PROTOCOL["noop_max"], Source("30", IN_CODE)),
    ("chance of a sticky action", _PROTOCOL["sticky"], Source("none", IN_CODE)),
    ("all 18 actions", _PROTOCOL["full_action_space"], Source("minimal actions", IN_CODE)),
    ("a lost life ends an evaluation", _PROTOCOL["life_loss"], Source("in training alone", IN_CODE)),
    ("emulator frames to a truncation", _PROTOCOL["max_frames"], Source("108,000 (the emulator's)", IN_CODE)),
    ("channels a group of a GroupNorm", GROUP_SIZE, Source("32, at least one group", IN_CODE, _NET)),
    ("epsilon of a GroupNorm", NORM_EPS, Source("1e-5", IN_CODE, _NET)),
    ("channels an attention head", HEAD_CHANNELS, Source("8", IN_CODE, _NET)),
)


def flat(config: TrainConfig) -> dict[str, Any]:
    """Return every leaf of a configuration by its dotted path."""

    def leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(leaves(to_json(config), ""))


def settings_of(config: TrainConfig) -> list[Setting]:
    """Return every setting of ``config`` beside the paper's that it follows: DIAMOND's if it dreams in pixels."""
    values = flat(config)
    pixels = values["world_model.encoder.kind"] == flat(DIAMOND)["world_model.encoder.kind"]
    sources, paper = (DIAMONDS, flat(DIAMOND)) if pixels else (JEDI, flat(PAPER))
    return [
        Setting(path, value, sources[path], None if value == paper[path] else paper[path])
        for path, value in values.items()
    ]


def shown(value: object) -> str:
    """Return a value of a setting for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(config: TrainConfig) -> str:
    """Return the settings of one of the two papers' presets as a table in Markdown."""
    return _markdown((f"`{s.path.replace('_', '-')}`", s.value, s.source) for s in settings_of(config))


def fixed_table() -> str:
    """Return what no flag changes as a table in Markdown."""
    return _markdown(FIXED)


def _markdown(rows: Iterable[tuple[str, Any, Source]]) -> str:
    lines = ["| setting | our value | what the paper says | source | why |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {shown(value)} | {s.says} | {s.source} | {s.why} |" for name, value, s in rows]
    return "\n".join(lines)
