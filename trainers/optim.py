"""Optimisers: which parameters decay, how the learning rate warms up, where gradients are clipped.

All as in DIAMOND (arXiv 2405.12399, appendix D, and its public code).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jedi_env.errors import RunError
from trainers.distributed import sum_gradients

_LEAST_RATE = 0.05
_DECAYED = (nn.Linear, nn.Conv2d, nn.LSTM, nn.LSTMCell)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW for one module.

    Attributes:
        lr: learning rate after warm-up (1e-4 in DIAMOND; not known for JEDI).
        weight_decay: on the weights of linear, convolution and LSTM layers; never on biases, norms or embeddings.
        max_grad_norm: the module's gradient is scaled down to this norm.
        warmup: updates over which the learning rate rises linearly from 0.
        lr_decay: the learning rate falls along half a cosine to a twentieth by the end of the run (the papers: it never
            falls). A small model on a small budget ends a tenth to a quarter more exact with it.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    warmup: int = 100
    # ours
    lr_decay: bool = False


class Optim:
    """One AdamW over several modules, each with its own settings and its own gradient clipping.

    Args:
        modules: name -> (module, settings). A module without trainable parameters is passed over.
        planned: updates of the whole run, over which learning rates fall; 0: not known yet, and none falls.
    """

    def __init__(self, modules: Mapping[str, tuple[nn.Module, OptimConfig]], planned: int = 0) -> None:
        self.planned = planned
        self._parts = [(name, module, config) for name, (module, config) in modules.items() if _trainable(module)]
        groups = [group for part in self._parts for group in _groups(*part)]
        self._adam = torch.optim.AdamW(groups, eps=1e-8, fused=True)
        self.updates = 0

    def step(self, loss: Tensor) -> dict[str, Tensor]:
        """Descend ``loss`` by one update; return the gradient norm of each module before clipping.

        Of several processes, each gives the loss of its share of the batch; they descend the sum.

        Raises:
            RunError: the loss or a gradient is not finite; nothing was changed.
        """
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        loss = sum_gradients((parameter for group in self._adam.param_groups for parameter in group["params"]), loss)
        norms = {}
        for name, module, config in self._parts:
            trainable = _trainable(module)  # none in a module that was frozen since
            norm = nn.utils.clip_grad_norm_(trainable, config.max_grad_norm) if trainable else loss.new_zeros(())
            norms[f"grad_norm_{name}"] = norm.detach().to(loss.device)  # without any gradient, torch's 0 is the CPU's
        if not torch.isfinite(torch.stack([loss, *norms.values()])).all():
            self._adam.zero_grad(set_to_none=True)
            found = ", ".join(f"{name} {value.item():.3g}" for name, value in {"loss": loss, **norms}.items())
            raise RunError(
                f"Not finite after {self.updates} updates; no weight was changed ({found}). Look at the logged losses "
                "and gradient norms for when it began, and begin another run with a lower learning rate."
            )
        for group in self._adam.param_groups:
            group["lr"] = group["base_lr"] * _rate(self.updates, group["warmup"], group["lr_decay"] * self.planned)
        self._adam.step()
        self.updates += 1
        return norms

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's memory as a flat mapping of tensors, ready for safetensors."""
        state = {"updates": torch.tensor(self.updates)}
        memories = self._adam.state_dict()["state"]
        parameters = [parameter for group in self._adam.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            memory = memories.get(index) or {  # as AdamW begins; so what is saved never depends on what was learned
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            state.update({f"{index}.{key}": value for key, value in memory.items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.updates = int(state["updates"])
        memories: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name != "updates":
                index, key = name.split(".", 1)
                memories.setdefault(int(index), {})[key] = value.clone()
        self._adam.load_state_dict({"state": memories, "param_groups": self._adam.state_dict()["param_groups"]})


def _rate(updates: int, warmup: int, decay: int) -> float:
    """Return the share of the learning rate that the update after ``updates`` others takes; it falls over ``decay``."""
    risen = min(1.0, (updates + 1) / max(1, warmup))
    fallen = min(1.0, updates / decay) if decay else 0.0
    return risen * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * fallen)) / 2)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _groups(name: str, module: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for layer in module.modules():
        for key, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                decays = isinstance(layer, _DECAYED) and not key.startswith("bias")
                (decayed if decays else plain).append(parameter)
    common = {"lr": config.lr, "base_lr": config.lr, "warmup": config.warmup, "lr_decay": config.lr_decay, "name": name}
    return [
        {"params": params, "weight_decay": decay, **common}
        for params, decay in ((decayed, config.weight_decay), (plain, 0.0))
        if params
    ]
