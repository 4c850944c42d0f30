"""How much has to be imported before the first dream: torch's compiler takes a second, and only compiling needs it."""

import subprocess
import sys

from tests.tiny_dream import tiny_checkpoint

PROGRAM = """
import sys
import gymnasium
env = gymnasium.make_vec("jedi_env:JEDIDream-v0", num_envs=2, checkpoint={path!r}, obs_type="rgb", device="cpu")
env.reset(seed=0)
env.step(env.action_space.sample())
print(sorted({{"torch._dynamo", "torch._inductor", "sympy", "trainers"}} & sys.modules.keys()))
"""


def test_the_first_step_needs_no_compiler(tmp_path):
    tiny_checkpoint(decoder=True).save(tmp_path / "dream")
    program = PROGRAM.format(path=str(tmp_path / "dream"))
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
