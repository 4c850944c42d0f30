"""Hostile inputs: something valid with one thing wrong in it."""

import copy

HOSTILE = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**70,
    -0.5,
    1e308,
    "",
    "x",
    "../x",
    "os.system",
    [],
    [[]],
    [1, 2],
    {},
    {"a": 1},
]


def mutated_bytes(data, rng):
    at = rng.randrange(len(data))
    return rng.choice(
        [
            data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :],
            data[:at],
            data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:],
            data[:at] + data[at + rng.randrange(1, 9) :],
            data[:at] + bytes(8) + data[at + 8 :],
        ]
    )


def mutated_json(value, rng):
    """``value`` with one place in it, at any depth, replaced, removed or renamed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        changed = copy.copy(value)
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if rng.random() < 0.1:
            del changed[key]
        elif rng.random() < 0.1 and isinstance(value, dict):
            changed[key + "x"] = changed.pop(key)
        else:
            changed[key] = mutated_json(value[key], rng)
        return changed
    return rng.choice(HOSTILE)
