"""Frozen dataclasses of settings <-> JSON, by their annotations: what the files of checkpoints and runs are read with.

A file can only fill in fields: a union of dataclasses is told apart by a ``"kind"`` that must name a class *listed in
the annotation*, so no name found in a file is ever imported. Types are exact (``true`` is no int), unknown fields are
refused, fields that an older file lacks take their defaults. It is no general serialiser: it knows what settings are
made of and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from jedi_env.errors import CheckpointError, UsageError, nearest

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
T = TypeVar("T")
Annotation = Any  # typing has no type of all annotations

KIND = "kind"  # the key that tells the dataclasses of a union apart
MAX_DEPTH = 64  # of nested free-form JSON: deeper is an attack on the stack, not a setting
MAX_SHOWN = 80  # characters of a value in a message


def to_json(obj: object) -> dict[str, JSON]:
    """Return the frozen dataclass ``obj`` as JSON: a dict of its fields, nested alike.

    Raises:
        UsageError: a field holds what its annotation does not allow, or what JSON cannot say (NaN, infinity).
    """
    return _write_dataclass(obj, type(obj).__name__)


def from_json(cls: type[T], data: JSON, where: str) -> T:
    """Return the dataclass ``cls`` that ``data`` describes.

    Args:
        cls: a dataclass whose fields are None, bool, int, float, str, tuples, dataclasses, unions of these, ``dict``
            with text keys, or ``Any`` (free-form JSON).
        data: what :func:`to_json` returned, or an older version of it.
        where: what ``data`` is, for the messages (``"config.json"``).

    Raises:
        CheckpointError: a field is unknown, missing without a default, or of another type.
    """
    return cast(T, _read_dataclass(cls, data, where))


def parse(text: bytes, where: str) -> JSON:
    """Return the JSON in ``text``, read strictly: UTF-8, no key twice, no NaN or infinity.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        value: JSON = json.loads(text.decode(), object_pairs_hook=_without_repetition, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{where} is not JSON: {shown(error)}.") from error
    return value


def shown(value: object) -> str:
    """Return ``value`` for a message: printable whatever a file holds, and short."""
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
    except ValueError:  # a number of more digits than Python turns into text
        text = "a huge number"
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return whole


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _members(kind: Annotation) -> tuple[Annotation, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(kind) if _origin(kind) in (Union, UnionType) else (kind,)


def _origin(kind: Annotation) -> object:
    return get_origin(kind)


def _unsupported(kind: Annotation, where: str) -> TypeError:
    return TypeError(f"{where} is annotated with {kind}, which config_json does not know.")


# Reading


def _read(kind: Annotation, data: JSON, where: str) -> object:
    if kind is Any:
        return _free(data, where, CheckpointError)
    members = _members(kind)
    if data is None and NoneType in members:
        return None
    others = [member for member in members if member is not NoneType]
    if len(others) > 1:
        return _read_union(others, data, where)
    (kind,) = others or (NoneType,)
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if _origin(kind) is tuple:
        return _read_tuple(get_args(kind), data, where)
    if _origin(kind) is dict:
        _expect(dict, data, where)
        _, values = get_args(kind)
        entries = cast(dict[str, Any], data).items()
        return {key: _read(values, value, f"{where}[{shown(key)}]") for key, value in entries}
    if kind is float:
        return _read_float(data, where)
    if kind in (bool, int, str, NoneType):
        _expect(kind, data, where)
        return data
    raise _unsupported(kind, where)


def _expect(kind: type, data: JSON, where: str) -> None:
    """Refuse ``data`` of another type; exactly, for a bool is an int to Python."""
    if type(data) is not kind:
        names = {
            dict: "an object",
            list: "a list",
            NoneType: "null",
            int: "a whole number",
            str: "a text",
            bool: "a bool",
        }
        raise CheckpointError(f"{where} is {shown(data)}, but must be {names[kind]}.")


def _read_float(data: JSON, where: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise CheckpointError(f"{where} is {shown(data)}, but must be a number.")
    try:
        value = float(data)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise CheckpointError(f"{where} is {shown(data)}, but must be finite.")
    return value


def _read_tuple(kinds: tuple[Annotation, ...], data: JSON, where: str) -> tuple[Any, ...]:
    _expect(list, data, where)
    items = cast(list[Any], data)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise CheckpointError(f"{where} has {len(items)} items, but must have {len(kinds)}.")
    return tuple(_read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _read_union(kinds: list[Annotation], data: JSON, where: str) -> object:
    if all(is_dataclass(kind) for kind in kinds):
        _expect(dict, data, where)
        entries = dict(cast(dict[str, Any], data))
        by_name = {kind.__name__: kind for kind in kinds}
        name = entries.pop(KIND, None)
        if not isinstance(name, str) or name not in by_name:
            raise CheckpointError(f"{where}.{KIND} is {shown(name)}, but must be one of {', '.join(by_name)}.")
        return _read_dataclass(by_name[name], entries, where)
    for kind in kinds:
        if type(data) is kind:
            return _read(kind, data, where)
    if float in kinds:
        return _read_float(data, where)
    if all(kind in (bool, int, str) for kind in kinds):
        raise CheckpointError(f"{where} is {shown(data)}, but must be one of {', '.join(k.__name__ for k in kinds)}.")
    raise _unsupported(kinds, where)


def _read_dataclass(cls: Annotation, data: JSON, where: str) -> object:
    _expect(dict, data, where)
    entries = cast(dict[str, Any], data)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}
    for name in entries:
        if name not in known:
            raise CheckpointError(f"{where} has an unknown field {shown(name)}.{nearest(name, known)}")
    for name, field in known.items():
        if name not in entries and field.default is MISSING and field.default_factory is MISSING:
            raise CheckpointError(f"{where} lacks the field {name!r}.")
    hints = get_type_hints(cls)
    values = {name: _read(hints[name], value, f"{where}.{name}") for name, value in entries.items()}
    try:
        return cls(**values)
    except ValueError as error:  # of a __post_init__
        raise CheckpointError(f"{where}: {error}") from error


# Writing


def _write(kind: Annotation, value: object, where: str) -> JSON:
    if kind is Any:
        return _free(value, where, UsageError)
    members = _members(kind)
    if is_dataclass(value) and type(value) in members:
        written = _write_dataclass(value, where)
        tagged = sum(is_dataclass(member) for member in members) > 1
        return {KIND: type(value).__name__, **written} if tagged else written
    for member in members:
        if _origin(member) is tuple and isinstance(value, tuple):
            return _write_tuple(get_args(member), value, where)
        if _origin(member) is dict and isinstance(value, dict):
            return {str(key): _write(get_args(member)[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in members and isinstance(value, NoneType | bool | int | str):
        return value
    if float in members and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)  # 1 and 1.0 are equal settings, so they are written alike
    raise UsageError(f"{where} is {shown(value)}, which its annotation {kind} does not allow or JSON cannot say.")


def _write_tuple(kinds: tuple[Annotation, ...], value: tuple[Any, ...], where: str) -> list[JSON]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise UsageError(f"{where} has {len(value)} items, but must have {len(kinds)}.")
    return [_write(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))]


def _write_dataclass(obj: object, where: str) -> dict[str, JSON]:
    if not is_dataclass(obj) or isinstance(obj, type):
        raise UsageError(f"{where} is {shown(obj)}, but must be a dataclass.")
    hints = get_type_hints(type(obj))
    return {f.name: _write(hints[f.name], getattr(obj, f.name), f"{where}.{f.name}") for f in fields(obj)}


# Free-form JSON


def _free(value: object, where: str, fault: type[CheckpointError] | type[UsageError], depth: int = 0) -> JSON:
    """Return a copy of ``value`` made of dicts, lists, texts, finite numbers, bools and None, or raise ``fault``."""
    if depth > MAX_DEPTH:
        raise fault(f"{where} is nested more than {MAX_DEPTH} deep.")
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise fault(f"{where} has the key {shown(key)}; the keys of JSON are texts.")
        return {key: _free(item, f"{where}[{shown(key)}]", fault, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_free(item, f"{where}[{i}]", fault, depth + 1) for i, item in enumerate(value)]
    if value is None or type(value) in (bool, int, str):
        return cast(JSON, value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise fault(
        f"{where} is {shown(value)}, which JSON cannot say: write None, bool, int, finite float, str, list, dict."
    )
