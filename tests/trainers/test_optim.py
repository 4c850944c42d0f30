"""Which parameters decay, how the rate warms up, what is clipped, what a NaN may do, and what a save keeps."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jedi_env.errors import RunError
from jedi_env.models.blocks import AdaGroupNorm, FourierFeatures
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL
from trainers.agent import ActorCritic
from trainers.fit_world_model import make_optim
from trainers.optim import Optim, OptimConfig


class Everything(nn.Module):
    """One of each layer there is in the project."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.conv = nn.Conv2d(2, 2, 3)
        self.lstm = nn.LSTM(3, 2)
        self.cell = nn.LSTMCell(3, 2)
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.GroupNorm(1, 2)
        self.layer_norm = nn.LayerNorm(3)
        self.adaptive = AdaGroupNorm(2, 3)
        self.fourier = FourierFeatures(4)
        self.bare = nn.Parameter(torch.ones(2))


DECAYED = {
    "linear.weight",
    "conv.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "cell.weight_ih",
    "cell.weight_hh",
    "adaptive.linear.weight",
}


def still(module):
    """A loss whose gradient is zero everywhere, but there."""
    return sum(0.0 * parameter.sum() for parameter in module.parameters())


def moved(module, before):
    return {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}


def snapshot(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def test_weights_of_linear_convolution_and_lstm_layers_decay_and_nothing_else():
    module = Everything()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    before = snapshot(module)
    Optim({"it": (module, OptimConfig(lr=0.1, weight_decay=0.5, warmup=0))}).step(still(module))
    assert moved(module, before) == DECAYED
    assert module.conv.weight.flatten().tolist() == pytest.approx([1 - 0.1 * 0.5] * 36)  # decoupled: lr x decay


def test_without_decay_zero_gradients_move_nothing():
    module = Everything()
    before = snapshot(module)
    Optim({"it": (module, OptimConfig(lr=0.1, weight_decay=0.0, warmup=0))}).step(still(module))
    assert moved(module, before) == set()


def test_every_parameter_of_the_world_model_and_the_agent_is_trained_exactly_once():
    model = WorldModel(ACTIONS, MICRO_MODEL)
    agent = ActorCritic(model.frame_shape, ACTIONS, MICRO.agent)
    agent_optim = Optim({"agent": (agent, MICRO.fit_agent.optim)})
    for module, optim in ((model, make_optim(model, MICRO.fit_world_model)), (agent, agent_optim)):
        held = [id(p) for group in optim._adam.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in module.parameters())


@pytest.mark.parametrize(("warmup", "rates"), [(4, [0.25, 0.5, 0.75, 1, 1, 1]), (0, [1, 1]), (1, [1, 1])])
def test_the_rate_rises_linearly(warmup, rates):
    """AdamW's first steps under a constant gradient are as long as the rate is high."""
    module = nn.Linear(1, 1, bias=False)
    optim = Optim({"it": (module, OptimConfig(lr=0.01, weight_decay=0.0, warmup=warmup, max_grad_norm=1e9))})
    steps = []
    for _ in rates:
        before = module.weight.item()
        optim.step(3.0 * module.weight.sum())
        steps.append((before - module.weight.item()) / 0.01)
    assert steps == pytest.approx(rates, abs=1e-4)


def test_modules_have_rates_and_clipping_of_their_own():
    first, second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optim = Optim(
        {
            "first": (first, OptimConfig(lr=0.1, weight_decay=0.0, max_grad_norm=1.0, warmup=0)),
            "second": (second, OptimConfig(lr=0.3, weight_decay=0.0, max_grad_norm=100.0, warmup=0)),
        }
    )
    before = first.weight.detach().clone(), second.weight.detach().clone()
    slope = torch.tensor([[3.0, 4.0]])
    norms = optim.step((first.weight * slope).sum() + (second.weight * slope).sum())
    assert {name: norm.item() for name, norm in norms.items()} == {"grad_norm_first": 5.0, "grad_norm_second": 5.0}
    assert torch.allclose(first.weight.grad, slope / 5, atol=1e-5)
    assert torch.equal(second.weight.grad, slope)
    assert (before[0] - first.weight).flatten().tolist() == pytest.approx([0.1, 0.1], abs=1e-5)
    assert (before[1] - second.weight).flatten().tolist() == pytest.approx([0.3, 0.3], abs=1e-5)


def test_it_is_adamw():
    """Beside torch's own, on one group, over many steps."""
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    optim = Optim({"it": (ours, OptimConfig(lr=0.05, weight_decay=0.1, warmup=0, max_grad_norm=1e9))})
    plain = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}], lr=0.05
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(8, 3, generator=generator)
        optim.step(ours(x).square().mean())
        plain.zero_grad()
        theirs(x).square().mean().backward()
        plain.step()
    torch.testing.assert_close(ours.weight, theirs.weight)  # ours is the fused one, which rounds in another order
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_changes_nothing(bad):
    module = nn.Linear(2, 1)
    optim = Optim({"it": (module, OptimConfig(warmup=0))})
    optim.step(module.weight.sum())
    weights = copy.deepcopy(module.state_dict())
    memory = {name: tensor.clone() for name, tensor in optim.state_dict().items()}
    with pytest.raises(RunError, match="after 1 updates; no weight was changed"):
        optim.step(module.weight.sum() * bad)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    after = optim.state_dict()
    assert after.keys() == memory.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in memory.items())
    assert optim.updates == 1


def train(module, optim, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(5, 2, 8, 8, generator=generator)
        optim.step(sum(layer(x).square().mean() for layer in module))


def two_convolutions():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 1)])


def optim_of(module):
    settings = OptimConfig(lr=0.02, weight_decay=0.1, warmup=6)
    return Optim({"a": (module[0], settings), "b": (module[1], OptimConfig(lr=0.01, warmup=2))})


def test_saved_and_restored_in_the_middle_it_goes_on_bit_for_bit(tmp_path):
    whole = two_convolutions()
    optim = optim_of(whole)
    train(whole, optim, 0, 9)

    part = two_convolutions()
    before = optim_of(part)
    train(part, before, 0, 4)  # in the middle of the warm-up
    save_file(before.state_dict(), tmp_path / "optim.safetensors")
    weights = copy.deepcopy(part.state_dict())
    train(part, before, 4, 6)  # lost

    resumed = two_convolutions()
    resumed.load_state_dict(weights)
    after = optim_of(resumed)
    state = load_file(tmp_path / "optim.safetensors")
    untouched = {name: tensor.clone() for name, tensor in state.items()}
    after.load_state_dict(state)
    assert after.updates == 4
    train(resumed, after, 4, 9)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in state.items())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
    for name, tensor in optim.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])


def test_saved_before_the_first_update():
    fresh = two_convolutions()
    optim = optim_of(fresh)
    optim.load_state_dict(optim_of(two_convolutions()).state_dict())
    other = two_convolutions()
    train(fresh, optim, 0, 2)
    train(other, optim_of(other), 0, 2)
    assert torch.equal(fresh[0].weight, other[0].weight)


def test_a_module_frozen_later_stands_still_also_after_resuming():
    module = two_convolutions()
    optim = optim_of(module)
    train(module, optim, 0, 3)
    module[0].requires_grad_(False)
    before = snapshot(module)
    train(module, optim, 3, 5)
    assert moved(module, before) == {"1.weight", "1.bias"}

    resumed = two_convolutions()  # every module is trainable when an optimiser is made
    resumed.load_state_dict(module.state_dict())
    again = optim_of(resumed)
    again.load_state_dict(optim.state_dict())
    resumed[0].requires_grad_(False)
    before = snapshot(resumed)
    train(resumed, again, 5, 7)
    train(module, optim, 5, 7)
    assert moved(resumed, before) == {"1.weight", "1.bias"}
    assert torch.equal(resumed[1].weight, module[1].weight)


def test_a_module_without_parameters_is_passed_over():
    linear = nn.Linear(1, 1)
    optim = Optim({"none": (nn.Identity(), OptimConfig()), "linear": (linear, OptimConfig())})
    assert set(optim.step(linear.weight.sum())) == {"grad_norm_linear"}


def test_a_gradient_that_is_not_finite_changes_nothing():
    module = torch.nn.Linear(2, 1)
    optim = Optim({"only": (module, OptimConfig())})
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    # The square root is finite at zero, and its slope is not.
    with pytest.raises(RunError, match=r"grad_norm_only (nan|inf)"):
        optim.step((module.weight.sum() * 0.0).abs().sqrt())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert optim.updates == 0


def test_the_rate_falls_along_half_a_cosine_to_a_twentieth_and_stays():
    module = nn.Linear(1, 1)
    optim = Optim({"it": (module, OptimConfig(lr=1.0, weight_decay=0.0, warmup=0, lr_decay=True))}, planned=4)
    rates = []
    for _ in range(6):
        optim.step(module(torch.ones(1, 1)).sum())
        rates.append(optim._adam.param_groups[0]["lr"])
    halfway = 0.05 + 0.95 / 2
    assert rates == pytest.approx(
        [1, 0.05 + 0.95 * (1 + 0.5**0.5) / 2, halfway, 0.05 + 0.95 * (1 - 0.5**0.5) / 2, 0.05, 0.05]
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_module_frozen_on_the_way_stays_and_the_others_learn(device):
    """Its gradient norm is 0 on the device of the loss: anything else would not stack with the others on a GPU."""
    frozen, free = nn.Linear(2, 2).to(device), nn.Linear(2, 2).to(device)
    optim = Optim({"frozen": (frozen, OptimConfig()), "free": (free, OptimConfig())})
    x = torch.ones(1, 2, device=device)
    optim.step(free(frozen(x)).sum())
    frozen.requires_grad_(False)
    before = [module.weight.clone() for module in (frozen, free)]
    norms = optim.step(free(frozen(x)).sum())
    assert norms["grad_norm_frozen"].device.type == device
    assert norms["grad_norm_frozen"] == 0
    assert torch.equal(frozen.weight, before[0])
    assert not torch.equal(free.weight, before[1])


def test_a_module_without_gradients_is_no_obstacle_on_another_device():
    """The meta device stands for a GPU: torch's norm of no gradients is on the CPU, whatever the device."""
    idle, busy = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta")
    optim = Optim({"idle": (idle, OptimConfig()), "busy": (busy, OptimConfig())})
    with pytest.raises(RuntimeError, match=r"meta tensors|on meta"):  # not before the numbers are looked at
        optim.step(busy(torch.zeros(1, 2, device="meta")).sum())
