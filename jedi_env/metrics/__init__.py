"""How good an agent is, in the numbers of the Atari100k literature; numpy only, torch is not imported.

Names that need torch (how far a dream can be trusted) live in modules of their own and are not imported here.
"""

from jedi_env.metrics.scores import (
    AGENT_OPTIMAL,
    HUMAN_OPTIMAL,
    HUMAN_SCORES,
    RANDOM_SCORES,
    Aggregate,
    Interval,
    Published,
    aggregate,
    human_normalized,
    published,
    published_methods,
    published_scores,
    published_seed_scores,
)

__all__ = [
    "AGENT_OPTIMAL",
    "HUMAN_OPTIMAL",
    "HUMAN_SCORES",
    "RANDOM_SCORES",
    "Aggregate",
    "Interval",
    "Published",
    "aggregate",
    "human_normalized",
    "published",
    "published_methods",
    "published_scores",
    "published_seed_scores",
]
