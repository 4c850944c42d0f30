"""Reads the checkpoints that DIAMOND's authors publish (arXiv 2405.12399; eloialonso/diamond on the Hugging Face hub).

Their file is one flat state dict of an agent: ``denoiser.``, ``rew_end_model.``, ``actor_critic.``. The networks are
ours, layer for layer, under other names; this file is the translation of names. It holds the package's only
``torch.load``, and that one takes data alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from jedi_env import hub
from jedi_env.checkpoint import AgentRecord, Checkpoint, check_bank
from jedi_env.config_json import JSON
from jedi_env.errors import CheckpointError, UsageError, nearest
from jedi_env.games import GAMES
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import PixelEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context

REPOSITORY = "hub://eloialonso/diamond"

WORLD_MODEL = WorldModelConfig(
    encoder=PixelEncoderConfig(),
    denoiser=DenoiserConfig(channels=(64,) * 4, depths=(2,) * 4, attention=(False,) * 4),
    reward_end=RewardEndConfig(down=(False, True, True, True)),
    switching=1.0,
)
# The settings of the trainers' actor-critic that are DIAMOND's.
AGENT: dict[str, JSON] = {
    "channels": [32, 32, 64, 64],
    "down": [True, True, True, True],
    "lstm_dim": 512,
    "frame_stack": 1,
}

# What each of their names becomes, tried in this order.
_RULES: tuple[tuple[str, str], ...] = (
    (r"denoiser\.inner_model\.noise_emb\.", "denoiser.noise_features."),
    (r"denoiser\.inner_model\.act_emb\.0\.", "denoiser.action_embedding."),
    (r"denoiser\.inner_model\.cond_proj\.", "denoiser.condition_mlp."),
    (r"denoiser\.inner_model\.norm_out\.norm\.", "denoiser.norm_out."),
    (r"denoiser\.inner_model\.unet\.mid_blocks\.resblocks\.", "denoiser.unet.middle."),
    (r"denoiser\.inner_model\.unet\.d_blocks\.(\d+)\.resblocks\.", r"denoiser.unet.down_blocks.\1."),
    (r"denoiser\.inner_model\.unet\.u_blocks\.(\d+)\.resblocks\.", r"denoiser.unet.up_blocks.\1."),
    (r"denoiser\.inner_model\.", "denoiser."),
    (r"rew_end_model\.act_emb\.", "reward_end.action_embedding."),
    (r"rew_end_model\.encoder\.blocks\.4\.resblocks\.", "reward_end.middle."),
    (r"rew_end_model\.encoder\.blocks\.(\d+)\.resblocks\.", r"reward_end.stages.\1."),
    (r"rew_end_model\.encoder\.", "reward_end."),
    (r"rew_end_model\.", "reward_end."),
    (r"actor_critic\.encoder\.encoder\.", "agent.trunk."),
    (r"actor_critic\.actor_linear\.", "agent.actor."),
    (r"actor_critic\.critic_linear\.", "agent.critic."),
    (r"actor_critic\.", "agent."),
)
_PARTS: tuple[tuple[str, str], ...] = (
    (r"\.proj\.", ".skip."),
    (r"\.attn\.norm\.norm\.", ".attention.norm."),
    (r"\.attn\.qkv_proj\.", ".attention.qkv."),
    (r"\.attn\.out_proj\.", ".attention.out."),
    (r"\.f\.0\.norm\.", ".norm."),
    (r"\.f\.2\.", ".conv."),
    (r"\.skip_projection\.", ".skip."),
)


def load_diamond(
    path_or_game: str | os.PathLike[str], contexts: Context | None = None, game: str | None = None
) -> Checkpoint:
    """Turn a checkpoint published by DIAMOND's authors into one of ours, which dreams in pixels.

    Their files carry no starting points, so the real game is played for some (with random actions; needs the
    ``[atari]`` extra), unless ``contexts`` gives them.

    Args:
        path_or_game: one of their ``.pt`` files, or one of :data:`jedi_env.GAMES`, which is downloaded from the hub.
        contexts: starting points, at least one: float32 frames ``(N, 4, 3, 64, 64)`` in [-1, 1] and int64 actions
            ``(N, 3)`` that the game has.
        game: which of the games the file is of; default: the file's name, if that is a game.

    Returns:
        The checkpoint, with their agent.

    Raises:
        UsageError: neither a file nor a game, wrong contexts, or no contexts can be had.
        CheckpointError: the file is no such checkpoint; nothing was loaded.
    """
    if game is not None and game not in GAMES:
        raise UsageError(f"game is {game!r}, which is none of the Atari100k games.{nearest(game, GAMES)}")
    path, game = _locate(path_or_game, game)
    ours = {_rename(name): tensor for name, tensor in _read(path).items()}
    embedding = ours.get("denoiser.action_embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise CheckpointError(
            f"{path} has no action embedding of a denoiser: it is no checkpoint of DIAMOND's Atari agent."
        )
    with torch.random.fork_rng(devices=[]):
        model = WorldModel(len(embedding), WORLD_MODEL)
    if contexts is not None:
        _check_contexts(contexts, model)
    _fill(model, {name: tensor for name, tensor in ours.items() if not name.startswith("agent.")}, path)
    agent = {name.removeprefix("agent."): tensor for name, tensor in ours.items() if name.startswith("agent.")}
    return Checkpoint(
        world_model=model.eval().requires_grad_(False),
        contexts=contexts if contexts is not None else _play_for_contexts(model, game),
        game=game,
        horizon=None,
        protocol={},
        provenance={"source": f"DIAMOND, {path.name}"},
        metrics={},
        agent=AgentRecord(dict(AGENT), agent) if agent else None,
    )


def _locate(path_or_game: str | os.PathLike[str], game: str | None) -> tuple[Path, str | None]:
    if isinstance(path_or_game, str) and path_or_game in GAMES and not Path(path_or_game).is_file():
        name = f"atari_100k/models/{path_or_game}.pt"
        return hub.download(REPOSITORY, [name]) / name, path_or_game
    if not isinstance(path_or_game, str | os.PathLike):
        raise UsageError(f"path_or_game is {path_or_game!r}: write a file, or one of the Atari100k games.")
    path = Path(os.path.expanduser(path_or_game))
    if not path.is_file():
        raise UsageError(
            f"{path} is neither a file nor one of the Atari100k games ({', '.join(GAMES)}).{nearest(str(path), GAMES)}"
        )
    return path, game or (path.stem if path.stem in GAMES else None)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises at a file that is not of its own making
        raise CheckpointError(
            f"{path} could not be read as a file of plain tensors ({type(error).__name__}); nothing in it was run."
        ) from error
    if not isinstance(state, Mapping) or not all(_is_plain(value) for value in state.values()):
        raise CheckpointError(
            f"{path} holds something else than dense float tensors by name: it is no state dict of DIAMOND's agent."
        )
    tensors: dict[str, Tensor] = {str(name): tensor for name, tensor in state.items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{path} has weights that are not finite: {_some(broken)}.")
    return tensors


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.is_floating_point()


def _rename(name: str) -> str:
    for theirs, ours in _RULES:
        name, found = re.subn(f"^{theirs}", ours, name)
        if found:
            break
    for theirs, ours in _PARTS:
        name = re.sub(theirs, ours, name)
    return name


def _fill(model: WorldModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing, foreign = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    for what, names in (("lacks", missing), ("has unknown", foreign), ("has other shapes of", shapes)):
        if names:
            raise CheckpointError(f"{path} {what} {_some(names)}: it is no checkpoint of DIAMOND's Atari agent.")
    model.load_state_dict(dict(tensors))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _check_contexts(contexts: Context, model: WorldModel) -> None:
    k, shape = WORLD_MODEL.context_length, (3, 64, 64)
    frames, actions = contexts.frames, contexts.actions
    fits = frames.ndim == 5 and frames.shape[1:] == (k, *shape) and actions.shape == (len(frames), k - 1)
    if not fits or frames.dtype != torch.float32 or actions.dtype != torch.int64 or len(frames) == 0:
        raise UsageError(
            f"The contexts are frames {frames.dtype} {tuple(frames.shape)} and actions {actions.dtype} "
            f"{tuple(actions.shape)}; give at least one: float32 {('N', k, *shape)} and int64 {('N', k - 1)}."
        )
    try:
        check_bank(contexts, model, "contexts=")
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def _play_for_contexts(model: WorldModel, game: str | None, number: int = 64, apart: int = 12) -> Context:
    """Play the real game at random and return ``number`` starting points, ``apart`` steps from one another."""
    if game is None:
        raise UsageError("Whose checkpoint is it? Write game='Breakout' (or whichever), or give contexts=.")
    from jedi_env.envs.real import make_pixels

    env = make_pixels(game)
    if not isinstance(env.action_space, Discrete) or env.action_space.n != model.num_actions:
        env.close()
        raise UsageError(
            f"The checkpoint is of a game with {model.num_actions} actions, and {game} has the space "
            f"{env.action_space}: write game= with the right one, or give contexts=."
        )
    generator = torch.Generator().manual_seed(0)
    k = model.context_length
    pixels, actions, begun = [torch.from_numpy(env.reset(seed=0)[0])], [0], 0
    frames: list[Tensor] = []
    between: list[Tensor] = []
    while len(frames) < number:
        action = int(torch.randint(model.num_actions, (), generator=generator))
        observation, _, terminated, truncated, _ = env.step(action)
        actions.append(action)
        pixels.append(torch.from_numpy(observation))
        if len(pixels) - begun >= k and len(pixels) % apart == 0:
            frames.append(model.encode(torch.stack(pixels[-k:])))
            between.append(torch.tensor(actions[1 - k :]))
        if terminated or truncated:
            pixels.append(torch.from_numpy(env.reset()[0]))
            actions.append(0)
            begun = len(pixels) - 1
    env.close()
    return Context(torch.stack(frames), torch.stack(between))
