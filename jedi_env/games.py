"""The 26 games of the Atari100k benchmark, in ALE's spelling (Kaiser et al. 2020, arXiv 1903.00374)."""

from jedi_env.errors import UsageError, nearest

GAMES: tuple[str, ...] = (
    "Alien",
    "Amidar",
    "Assault",
    "Asterix",
    "BankHeist",
    "BattleZone",
    "Boxing",
    "Breakout",
    "ChopperCommand",
    "CrazyClimber",
    "DemonAttack",
    "Freeway",
    "Frostbite",
    "Gopher",
    "Hero",
    "Jamesbond",
    "Kangaroo",
    "Krull",
    "KungFuMaster",
    "MsPacman",
    "Pong",
    "PrivateEye",
    "Qbert",
    "RoadRunner",
    "Seaquest",
    "UpNDown",
)


def check_game(name: str) -> str:
    """Return ``name`` if it is one of :data:`GAMES`, else raise :class:`UsageError` naming the nearest."""
    if name in GAMES:
        return name
    raise UsageError(
        f"Unknown game {name!r}.{nearest(name, GAMES)} The Atari100k games are spelled as in ALE: {', '.join(GAMES)}."
    )
