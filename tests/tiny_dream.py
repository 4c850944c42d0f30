"""A dream small enough to save and load hundreds of times, with random weights everywhere, and what is seen of it."""

from dataclasses import replace

import torch

from jedi_env.actions import BoxActions
from jedi_env.checkpoint import AgentRecord, Checkpoint
from jedi_env.dream import Dream
from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig, PixelEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.sampler import SamplerConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context

NUM_ACTIONS = 4

LATENT = WorldModelConfig(
    encoder=LatentEncoderConfig(channels=(4, 2), down=(False, False), patch=16, standardise=True),
    denoiser=DenoiserConfig(channels=(8,), middle_attention=False, cond_channels=8),
    sampler=SamplerConfig(steps=2),
    reward_end=RewardEndConfig(
        channels=(4,),
        depths=(1,),
        attention=(False,),
        down=(False,),
        middle_attention=False,
        cond_channels=4,
        lstm_dim=8,
        frame_stack=2,
    ),
)
# A dream of vectors and rewards of any size.
BOX = BoxActions((-1.0, 0.0, -7.5), (1.0, 0.1, -2.5))
SYMLOG = replace(LATENT, reward_end=replace(LATENT.reward_end, symlog=True))
PIXEL = WorldModelConfig(
    encoder=PixelEncoderConfig(),
    denoiser=DenoiserConfig(channels=(8,), middle_attention=False, cond_channels=8),
    sampler=SamplerConfig(steps=2),
    reward_end=RewardEndConfig(
        channels=(4,) * 4,
        depths=(1,) * 4,
        attention=(False,) * 4,
        down=(True,) * 4,
        middle_attention=False,
        cond_channels=4,
        lstm_dim=8,
    ),
    context_length=2,
)


def tiny_model(config=LATENT, seed=0, actions=NUM_ACTIONS):
    generator = torch.Generator().manual_seed(seed)
    model = WorldModel(actions, config).eval()
    with torch.no_grad():  # all of them: many layers start at zero
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for buffer in model.buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1)
    return model


def tiny_checkpoint(
    config=LATENT, *, seed=0, game="Breakout", horizon=20, agent=False, decoder=False, actions=NUM_ACTIONS
):
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(config, seed, actions)
    pixels = torch.randint(0, 256, (5, config.context_length, 64, 64, 3), generator=generator, dtype=torch.uint8)
    if isinstance(actions, int):
        between = torch.randint(0, actions, (5, config.context_length - 1), generator=generator)
    else:
        shares = torch.rand(5, config.context_length - 1, actions.size, generator=generator)
        between = actions.from_unit(2 * shares - 1)
    with torch.no_grad():
        contexts = Context(model.encode(pixels), between)
    if decoder:
        probe = Decoder(model.frame_shape, DecoderConfig(channels=4, blocks=1)).eval()
        with torch.no_grad():
            probe.mean_image.copy_(torch.rand(3, 64, 64, generator=generator))
            for parameter in probe.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.attach_decoder(probe)
    record = None
    if agent:
        tensors = {"policy.weight": torch.randn(3, 4, generator=generator), "count": torch.tensor(7)}
        record = AgentRecord({"lstm_dim": 8, "channels": [1, 2]}, tensors)
    return Checkpoint(
        world_model=model,
        contexts=contexts,
        game=game,
        horizon=horizon,
        protocol={"sticky": False, "frame_skip": 4},
        provenance={"commit": "0123abc", "seed": seed, "versions": {"torch": "2"}},
        metrics={"scores": [{"mean": 1.5, "returns": [1, 2]}]},
        agent=record,
    )


def dreamt(checkpoint, steps=6):
    """Everything that is seen of a dream."""
    dream = Dream(checkpoint.world_model, checkpoint.contexts, horizon=4)
    dream.reset(range(3))
    seen = [dream.observation(2)]
    for t in range(steps):
        transition = dream.step(torch.tensor([t % NUM_ACTIONS, 1, 2]))
        dream.restart(transition.done)
        seen += [dream.observation(1), transition.prediction.reward_probs, transition.prediction.termination_prob]
    return torch.cat([tensor.flatten() for tensor in seen])


def same(a, b):
    """Whether two checkpoints hold the same, bit for bit."""
    tensors = []
    for checkpoint in (a, b):
        model, agent = checkpoint.world_model, checkpoint.agent
        found = {f"model.{k}": v for k, v in model.state_dict().items()}
        if isinstance(model.decoder, Decoder):
            found |= {f"decoder.{k}": v for k, v in model.decoder.state_dict().items()}
        if agent is not None:
            found |= {f"agent.{k}": v for k, v in agent.tensors.items()}
        tensors.append({**found, "frames": checkpoint.contexts.frames, "actions": checkpoint.contexts.actions})
    facts = [
        (c.game, c.horizon, c.protocol, c.provenance, c.metrics, c.agent and c.agent.config, c.world_model.config)
        for c in (a, b)
    ]
    return (
        facts[0] == facts[1]
        and tensors[0].keys() == tensors[1].keys()
        and all(x.dtype == tensors[1][k].dtype and torch.equal(x, tensors[1][k]) for k, x in tensors[0].items())
    )
