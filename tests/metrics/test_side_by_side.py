"""Reality and the dream side by side: the dream is the model's own."""

import pytest
import torch

from jedi_env.errors import UsageError
from jedi_env.metrics.side_by_side import SideBySide, side_by_side
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, Segment
from tests.metrics.counting_world import K, World, play
from tests.tiny_dream import LATENT, PIXEL, tiny_model


@pytest.mark.parametrize("config", [LATENT, PIXEL])
def test_the_dream_is_the_models_own_and_a_lane_does_not_depend_on_its_neighbours(config):
    model, k = tiny_model(config), config.context_length
    generator = torch.Generator().manual_seed(0)
    length = k + 2
    segment = Segment(
        torch.randint(0, 256, (4, length + 1, 64, 64, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 4, (4, length), generator=generator),
        torch.zeros(4, length),
        torch.zeros(4, length, dtype=torch.bool),
        torch.ones(4, length, dtype=torch.bool),
    )
    sides = side_by_side(model, segment, seed=7)
    assert (sides.horizon, len(sides)) == (3, 4)
    with torch.no_grad():
        frames = model.encode(segment.pixels)
        state = model.begin(Context(frames[:, :k], segment.actions[:, : k - 1]))
        memory = (state.hidden, state.cell)
        key = lane_keys([7, 8, 9, 10])
        assert torch.equal(sides.at(0)[0], sides.at(0)[1])
        for step in range(1, 4):
            t = k - 2 + step
            state, prediction = model.advance(state, segment.actions[:, t], LaneNoise(key, torch.full_like(key, t)))
            real, dreamed = sides.at(step)
            assert torch.equal(real, frames[:, t + 1])
            assert torch.equal(dreamed, state.frames[:, -1])
            assert torch.equal(sides.dreamed_reward[:, step - 1], prediction.reward_probs)
            assert torch.equal(sides.dreamed_end[:, step - 1], prediction.termination_prob)
            stack = frames[:, None, t + 1 - config.reward_end.frame_stack : t + 1].flatten(2, 3)
            read, memory = model.reward_end(stack, segment.actions[:, t : t + 1], frames[:, t + 1 : t + 2], memory)
            torch.testing.assert_close(sides.read_reward[:, step - 1], read.reward[:, 0].softmax(-1))
            torch.testing.assert_close(sides.read_end[:, step - 1], read.end[:, 0].softmax(-1)[:, 1])
    parts = SideBySide.join([side_by_side(model, segment[:1], 7), side_by_side(model, segment[1:], 8)])
    for name in ("dreamed", "dreamed_reward", "read_end"):
        one_level = 0.01 if config is PIXEL else 1e-5  # a pixel frame is rounded to 256 levels
        torch.testing.assert_close(getattr(parts, name), getattr(sides, name), rtol=1e-4, atol=one_level)


def test_a_segment_too_short_to_dream_one_step_is_refused():
    segment = play()
    short = Segment(
        segment.pixels[:, :K],
        *(getattr(segment, name)[:, : K - 1] for name in ("actions", "rewards", "terminated", "mask")),
    )
    with pytest.raises(UsageError, match="2 transitions: give at least 3"):
        side_by_side(World(1.0), short)
