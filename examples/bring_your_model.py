"""A hand-made model becomes a Gymnasium environment: vectorised, seeded, with all modes and exact state.

Whatever has ``begin`` and ``advance`` can dream. Here a dot walks left and right on a line of eight cells, drawn as a
1x1x8 frame; it is rewarded at the right end and dies at the left one.

    python examples/bring_your_model.py
"""

import gymnasium as gym
import torch
from torch import Tensor

import jedi_env
from jedi_env.types import Context, ModelState, Prediction


class Walk:
    """Frames are one-hot positions; action 0 goes left, 1 goes right."""

    frame_shape, bound, context_length, num_actions = (1, 1, 8), 1.0, 1, 2
    decoder = None  # nothing draws it: no pictures, no obs_type="rgb"

    def begin(self, context: Context) -> ModelState:
        """Return the state at the frame of ``context``."""
        nothing = context.frames.new_zeros(len(context), 0)
        return ModelState(context.frames, context.actions, nothing, nothing)

    def advance(
        self, state: ModelState, actions: Tensor, noise: object, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        """Walk one cell."""
        position = (state.frames[:, -1].flatten(1).argmax(dim=1) + 2 * actions - 1).clamp(0, 7)
        frame = torch.nn.functional.one_hot(position, 8).float()[:, None, None, None, :]
        right, left = (position == 7).float(), position == 0
        probs = torch.stack((torch.zeros_like(right), 1 - right, right), dim=1)
        return ModelState(frame, state.actions, state.hidden, state.cell), Prediction(right, left, probs, left.float())


def make_checkpoint() -> jedi_env.Checkpoint:
    """Return the dream: the model, and three cells to start from."""
    starts = torch.eye(8)[[2, 3, 4]].reshape(3, 1, 1, 1, 8)
    return jedi_env.Checkpoint(
        world_model=Walk(),
        contexts=Context(frames=starts, actions=torch.zeros(3, 0, dtype=torch.long)),
        game=None,
        horizon=10,
        protocol={},
        provenance={"source": "made by hand"},
        metrics={},
    )


def main() -> float:
    """Return what a walk to the right earns in ten steps, in the mean over three dreams."""
    env = gym.make_vec("JEDIDream-v0", num_envs=3, checkpoint=make_checkpoint(), frame_stack=1, device="cpu")
    env.reset(seed=0, options={"contexts": [0, 1, 2]})
    earned = 0.0
    for _ in range(10):
        _, rewards, _, truncated, _ = env.step([1, 1, 1])
        earned += float(rewards.mean())
    assert truncated.all()
    print(f"walking right earns {earned:.2f} in ten steps")
    return earned


if __name__ == "__main__":
    main()
