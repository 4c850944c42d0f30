"""Early warnings: what the logged metrics say when a run goes wrong in a way that raises no error.

Pure functions of the log's newest records. Each warning, its threshold and what to do is explained in
``docs/health.md``. It stops nothing: a number that is not finite does that (``optim.py``, ``log.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

Records = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl, oldest first

LEAST_RANK = 2.0  # latents on a line
LOST_RANK, LOST_STD = 3.0, 10.0  # factors below the highest of the recent epochs
OVERVALUED = 3.0  # times what the dream pays for ever
LEAST_ENTROPY = 0.02  # of a uniform policy's
DRIFT, SIGMAS = 3.0, 4.0  # a rate is another if it differs by this factor and by this many standard errors


def health(recent: Records, num_actions: int, gamma: float) -> dict[str, str | None]:
    """Return, by name, the warning of every check that could be made, or None where all is well.

    Args:
        recent: the newest records of the log, those of the epoch that just ended included.
        num_actions: of the game; 0 of a continuum, over which the policy's deviation has a floor.
        gamma: the agent's discount.
    """
    if not recent:
        return {}
    epoch = recent[-1]["epoch"]
    phases = {record["phase"] for record in recent if record["epoch"] == epoch}
    checks: dict[str, tuple[str, Callable[[], str | None]]] = {
        "collapsed_latents": ("fit_models", lambda: collapsed_latents(recent)),
        "exploding_value": ("imagine", lambda: exploding_value(recent, gamma)),
        "dead_policy": ("imagine", lambda: dead_policy(recent, num_actions)),
        "drifting_dream": ("imagine", lambda: drifting_dream(recent)),
    }
    return {name: check() for name, (phase, check) in checks.items() if phase in phases}


def warn(found: Mapping[str, str | None], epoch: int) -> dict[str, float]:
    """Log the warnings and return what to log of them: 1 for a warning, 0 for none."""
    for name, sentence in found.items():
        if sentence is not None:
            logger.warning("epoch %d: %s: %s See docs/health.md.", epoch + 1, name, sentence)
    return {name: float(sentence is not None) for name, sentence in found.items()}


def collapsed_latents(recent: Records) -> str | None:
    """Warn if all observations have nearly the same latent, or latents on a line, or did not until lately."""
    ranks, stds = _series(recent, "fit_models", "latent_rank"), _series(recent, "fit_models", "latent_std")
    if not ranks or not stds:
        return None
    lost = ranks[-1] < LEAST_RANK or ranks[-1] * LOST_RANK < max(ranks) or stds[-1] * LOST_STD < max(stds)
    if stds[-1] > 0 and not lost:
        return None
    return (
        f"the latents collapse: effective rank {ranks[-1]:.3g} (lately up to {max(ranks):.3g}), standard deviation "
        f"{stds[-1]:.3g} (up to {max(stds):.3g})."
    )


def exploding_value(recent: Records, gamma: float) -> str | None:
    """Warn if the values are beyond what the dream's rewards could ever add up to."""
    value, returns = _last(recent, "value"), _last(recent, "returns")
    paid = _last(recent, "dream_reward")
    if value is None or returns is None or paid is None:
        return None
    ever = 1 / max(1 - gamma, 1e-6)  # steps that the discount lets count
    most = max([1.0, *_series(recent, "collect", "real_most")])  # that a step pays; of signs 1
    limit = min(most * ever, most + OVERVALUED * abs(paid) * ever)
    worst = max(value, returns, key=abs)
    if abs(worst) <= limit:
        return None
    return f"the values explode: {worst:.3g} on average; the dream pays {paid:.3g} a step, {limit:.3g} ever at most."


def dead_policy(recent: Records, num_actions: int) -> str | None:
    """Warn if the policy nearly always takes the same action, and so stops exploring."""
    entropy = _last(recent, "entropy")
    if entropy is None or num_actions < 2 or entropy >= LEAST_ENTROPY * math.log(num_actions):
        return None
    return f"the policy is dead: its entropy is {entropy:.2g} of at most {math.log(num_actions):.2g}."


def drifting_dream(recent: Records) -> str | None:
    """Warn if rewards or ends come at other rates in the dream than in the agent's real play of the same epochs."""
    collected = {record["epoch"]: record for record in recent if record["phase"] == "collect"}
    dreamed = {record["epoch"]: record for record in recent if record["phase"] == "imagine"}
    # The first play was random, and how much was played is the difference to the epoch before.
    epochs = [epoch for epoch in dreamed if epoch > 0 and epoch in collected and epoch - 1 in collected]
    weights = [collected[epoch]["real_steps"] - collected[epoch - 1]["real_steps"] for epoch in epochs]
    played = sum(weights)
    if played <= 0:
        return None

    def real(key: str) -> float:
        rates = (weight * collected[epoch][key] for epoch, weight in zip(epochs, weights, strict=True))
        return float(sum(rates) / played)

    def dream(key: str) -> float:
        return float(sum(dreamed[epoch][key] for epoch in epochs) / len(epochs))

    told = []
    for what, here, there, events in (
        ("reward", dream("dream_reward"), real("real_reward"), real("real_events")),  # events: mean square
        ("end", dream("dream_end"), real("real_end"), real("real_end")),
    ):
        far = abs(here - there) * DRIFT > (DRIFT - 1) * max(abs(here), abs(there))
        error = math.sqrt(max(events, abs(here)) / played)  # of a count of rare events
        if far and abs(here - there) > SIGMAS * error:
            told.append(f"{what} {here:.3g} a step in the dream, {there:.3g} in {played:.0f} real steps")
    return f"the dream drifts from reality: {'; '.join(told)}." if told else None


def _series(recent: Records, phase: str, key: str) -> list[float]:
    return [float(record[key]) for record in recent if record["phase"] == phase and key in record]


def _last(recent: Records, key: str) -> float | None:
    series = _series(recent, "imagine", key)
    return series[-1] if series else None
