"""Settings survive JSON exactly, and nothing else gets in through a file."""

import json
import math
import sys
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.config_json import MAX_DEPTH, from_json, parse, to_json
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.models.decoder import DecoderConfig
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig, PixelEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.sampler import SamplerConfig
from jedi_env.models.world_model import WorldModelConfig
from trainers.presets import PRESETS


@dataclass(frozen=True)
class Inner:
    """One."""

    rate: float = 0.5


@dataclass(frozen=True)
class Other:
    """Another, told apart by its kind."""

    rate: float = 0.5


@dataclass(frozen=True)
class Everything:
    """Every kind of field that settings may have."""

    flag: bool
    count: int
    size: float
    name: str
    maybe: int | None
    lone: Inner
    either: Inner | Other | None
    many: tuple[int, ...]
    pair: tuple[str, float]
    nested: tuple[tuple[bool, ...], ...]
    table: dict[str, Inner]
    number_or_name: int | str
    free: dict[str, Any]
    new: tuple[Inner, ...] = ()
    newer: Inner = field(default_factory=Inner)


scalars = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=8),
    NoneType: st.none(),
}
free = st.recursive(
    st.one_of(scalars.values()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


# What these classes accept where they do not accept everything.
RANGES = {
    LatentEncoderConfig: {"bound": st.floats(1e-6, 1e6), "scale": st.floats(1e-6, 1e6)},
    DenoiserConfig: {"sigma_low": st.floats(1e-6, 1e-3), "sigma_high": st.floats(1e-3, 1e6)},
    SamplerConfig: {
        "sigma_min": st.floats(1e-6, 1e-3),
        "sigma_max": st.floats(1e-3, 1e6),
        "start_std": st.floats(0, 1e6),
    },
    WorldModelConfig: {"target_ema": st.floats(0, 0.999), "context_length": st.integers(4, 99)},
    RewardEndConfig: {"frame_stack": st.integers(1, 4)},
}


def values_of(kind):
    """A strategy for the values that an annotation allows."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return free
    if kind in scalars:
        return scalars[kind]
    if origin in (Union, UnionType):
        return st.one_of([values_of(arg) for arg in args])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*[values_of(arg) for arg in args])
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values_of(args[1]), max_size=2)
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: values_of(hints[f.name]) for f in fields(kind)} | RANGES.get(kind, {}))


def there_and_back(obj):
    return from_json(type(obj), json.loads(json.dumps(to_json(obj), allow_nan=False)), "it")


@given(values_of(WorldModelConfig) | values_of(DecoderConfig))
def test_any_model_configuration_survives_json(config):
    assert there_and_back(config) == config


@given(values_of(Everything))
def test_any_settings_survive_json(settings):
    assert there_and_back(settings) == settings


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_of_the_trainers_survives_json(name):
    assert there_and_back(PRESETS[name]) == PRESETS[name]


def test_the_classes_of_a_union_are_told_apart_by_their_kind():
    for encoder in (LatentEncoderConfig(), PixelEncoderConfig()):
        written = to_json(WorldModelConfig(encoder=encoder))["encoder"]
        assert written["kind"] == type(encoder).__name__
    assert to_json(Everything(**EVERYTHING))["either"] == {"kind": "Other", "rate": 0.5}
    assert to_json(Everything(**EVERYTHING))["lone"] == {"rate": 0.5}  # nothing to tell apart


EVERYTHING = {
    "flag": True,
    "count": 3,
    "size": 2.5,
    "name": "x",
    "maybe": None,
    "lone": Inner(),
    "either": Other(),
    "many": (1, 2),
    "pair": ("a", 1.0),
    "nested": ((True,), ()),
    "table": {"k": Inner(1.0)},
    "number_or_name": "seven",
    "free": {"a": [1, None, {"b": 2.5}]},
}


def test_what_an_older_file_lacks_takes_its_default():
    written = to_json(Everything(**EVERYTHING))
    del written["new"], written["newer"], written["lone"]["rate"]
    assert from_json(Everything, written, "it") == Everything(**EVERYTHING)


def test_a_whole_number_is_a_float_but_no_float_is_a_whole_number():
    read = from_json(Inner, {"rate": 3}, "it")
    assert (read.rate, type(read.rate)) == (3.0, float)
    assert to_json(Inner(3)) == {"rate": 3.0}
    assert type(to_json(Inner(3))["rate"]) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flag": 1}, r"it\.flag is 1, but must be a bool"),
        ({"count": True}, r"it\.count is True, but must be a whole number"),
        ({"count": 3.0}, r"it\.count is 3\.0, but must be a whole number"),
        ({"size": "2"}, r"it\.size is '2', but must be a number"),
        ({"size": False}, r"it\.size is False, but must be a number"),
        ({"size": 10**400}, r"it\.size is 1000.*\.\.\., but must be finite"),
        ({"size": math.inf}, r"it\.size is inf, but must be finite"),
        ({"name": None}, r"it\.name is None, but must be a text"),
        ({"maybe": "x"}, r"it\.maybe is 'x', but must be a whole number"),
        ({"lone": []}, r"it\.lone is \[\], but must be an object"),
        ({"lone": {"rtae": 1.0}}, r"it\.lone has an unknown field 'rtae'\. Did you mean 'rate'\?"),
        ({"lone": {"kind": "Inner"}}, r"it\.lone has an unknown field 'kind'"),
        ({"either": {"rate": 1.0}}, r"it\.either\.kind is None, but must be one of Inner, Other"),
        ({"either": {"kind": "os.system"}}, r"it\.either\.kind is 'os\.system', but must be one of Inner, Other"),
        ({"either": {"kind": "Everything"}}, r"it\.either\.kind is 'Everything', but must be one of Inner, Other"),
        ({"either": {"kind": ["Inner"]}}, r"it\.either\.kind is \['Inner'\]"),
        ({"many": 3}, r"it\.many is 3, but must be a list"),
        ({"many": [1, "2"]}, r"it\.many\[1\] is '2', but must be a whole number"),
        ({"pair": ["a"]}, r"it\.pair has 1 items, but must have 2"),
        ({"nested": [[True], [0]]}, r"it\.nested\[1\]\[0\] is 0, but must be a bool"),
        ({"table": {"k": 3}}, r"it\.table\['k'\] is 3, but must be an object"),
        ({"number_or_name": 1.5}, r"it\.number_or_name is 1\.5, but must be one of int, str"),
        ({"free": {"a": math.nan}}, r"it\.free\['a'\] is nan, which JSON cannot say"),
        ({"extra\ud800": 1}, r"it has an unknown field 'extra\\ud800'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(CheckpointError, match=message):
        from_json(Everything, {**to_json(Everything(**EVERYTHING)), **change}, "it")


def test_a_missing_field_without_default_is_refused():
    written = to_json(Everything(**EVERYTHING))
    del written["count"]
    with pytest.raises(CheckpointError, match=r"it lacks the field 'count'"):
        from_json(Everything, written, "it")


def test_a_class_may_refuse_its_values():
    @dataclass(frozen=True)
    class Positive:
        x: int

        def __post_init__(self):
            if self.x < 0:
                raise UsageError("x is negative")

    with pytest.raises(CheckpointError, match="it: x is negative"):
        from_json(Positive, {"x": -1}, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.0}, r"Everything\.count is 1\.0"),
        ({"flag": 1}, r"Everything\.flag is 1"),
        ({"size": math.nan}, r"Everything\.size is nan"),
        ({"size": True}, r"Everything\.size is True"),
        ({"either": WorldModelConfig()}, r"Everything\.either is WorldModelConfig"),
        ({"many": [1]}, r"Everything\.many is \[1\]"),
        ({"pair": ("a",)}, r"Everything\.pair has 1 items"),
        ({"free": {"a": {1: 2}}}, r"Everything\.free\['a'\] has the key 1"),
        ({"free": {"a": object}}, r"Everything\.free\['a'\] is <class 'object'>, which JSON cannot say"),
    ],
)
def test_what_json_cannot_say_is_not_written(change, message):
    with pytest.raises(UsageError, match=message):
        to_json(Everything(**{**EVERYTHING, **change}))


def test_free_json_is_not_nested_without_end():
    free = 1
    for _ in range(MAX_DEPTH + 2):
        free = [free]
    with pytest.raises(CheckpointError, match=f"nested more than {MAX_DEPTH} deep"):
        from_json(Everything, {**to_json(Everything(**EVERYTHING)), "free": {"a": free}}, "it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "codec can't decode"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[" * 100_000, "recursion"),
        (b"[" + b"9" * 10_000 + b"]", "Exceeds the limit"),
    ],
)
def test_text_that_is_not_json_is_refused(text, message):
    with pytest.raises(CheckpointError, match=f"^it is not JSON: .*{message}"):
        parse(text, "it")


def test_no_class_is_imported_for_a_name_in_a_file():
    before = set(sys.modules)
    for name in ("this.Inner", "this", "__main__.Inner"):
        with pytest.raises(CheckpointError):
            from_json(Everything, {**to_json(Everything(**EVERYTHING)), "either": {"kind": name}}, "it")
    assert set(sys.modules) == before


def test_an_annotation_that_is_not_known_is_the_programmers_mistake():
    @dataclass(frozen=True)
    class Odd:
        x: set[int]

    with pytest.raises(TypeError, match="config_json does not know"):
        from_json(Odd, {"x": [1]}, "it")
