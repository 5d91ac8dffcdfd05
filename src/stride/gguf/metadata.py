"""A file's key-value pairs, with getters that check types and name the file and the key when they fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from stride.errors import ModelFileError

Value: TypeAlias = bool | int | float | str | list[str] | npt.NDArray[Any]
"""A scalar, a list of strings, or a one-dimensional read-only numpy array of the file's own type."""

T = TypeVar("T")


class Metadata(Mapping[str, Value]):
    """Key-value pairs in file order. Getters raise ModelFileError for a wrong type, and without a default for absence.

    Token lists may hold bytes that are no UTF-8; such bytes stand as lone surrogates, so that
    ``text.encode("utf-8", "surrogateescape")`` gives the file's bytes back.
    """

    def __init__(self, values: Mapping[str, Value], path: Path) -> None:
        self._values = dict(values)
        self._path = path

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, key: str, *, default: int | None = None) -> int:
        return self._scalar(key, default, _as_integer, "an integer")

    def number(self, key: str, *, default: float | None = None) -> float:
        """A finite number; integers count."""
        return self._scalar(key, default, _as_number, "a finite number")

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        return self._scalar(key, default, _as_boolean, "true or false")

    def string(self, key: str, *, default: str | None = None) -> str:
        return self._scalar(key, default, _as_string, "a string")

    def integers(
        self, key: str, count: int, *, default: list[int] | None = None, at_least: int | None = None
    ) -> list[int]:
        """``count`` integers; a scalar stands for all of them.

        With ``at_least``, an array of that many or more will do, and its first ``count`` entries are given.
        """
        return self._array(key, count, default, at_least, _as_integer, "integers")

    def numbers(
        self, key: str, count: int, *, default: list[float] | None = None, at_least: int | None = None
    ) -> list[float]:
        """``count`` finite numbers, as `integers`."""
        return self._array(key, count, default, at_least, _as_number, "finite numbers")

    def booleans(
        self, key: str, count: int, *, default: list[bool] | None = None, at_least: int | None = None
    ) -> list[bool]:
        """``count`` truth values, as `integers`."""
        return self._array(key, count, default, at_least, _as_boolean, "truth values")

    def strings(self, key: str, *, default: list[str] | None = None) -> list[str]:
        """An array of strings of any length."""
        value = self._value(key, default)
        if not isinstance(value, list):
            raise self._wrong(key, value, "an array of strings")
        return value

    def _value(self, key: str, default: T | None) -> Value | T:
        if key in self._values:
            return self._values[key]
        if default is None:
            raise ModelFileError(f"the metadata has no {key!r}", path=self._path)
        return default

    def _scalar(self, key: str, default: T | None, convert: Callable[[Any], T | None], expected: str) -> T:
        value = self._value(key, default)
        converted = convert(value)
        if converted is None:
            raise self._wrong(key, value, expected)
        return converted

    def _array(
        self,
        key: str,
        count: int,
        default: list[T] | None,
        at_least: int | None,
        convert: Callable[[Any], T | None],
        expected: str,
    ) -> list[T]:
        if key not in self._values and default is not None:
            return default
        value = self._value(key, None)
        if not isinstance(value, list | np.ndarray):
            scalar = convert(value)
            if scalar is None:
                raise self._wrong(key, value, expected)
            return [scalar] * count
        if len(value) < (count if at_least is None else at_least) or (at_least is None and len(value) > count):
            needed = f"{count}" if at_least is None else f"at least {at_least}"
            raise ModelFileError(f"{key!r} has {len(value)} entries, but needs {needed}", path=self._path)
        items = [convert(item) for item in (value if isinstance(value, list) else value[:count].tolist())]
        present = [item for item in items if item is not None]
        if len(present) < len(items):
            raise self._wrong(key, value, expected)
        return present

    def _wrong(self, key: str, value: object, expected: str) -> ModelFileError:
        if isinstance(value, np.ndarray):
            found = f"an array of {len(value)} {value.dtype}"
        elif isinstance(value, list):
            found = f"an array of {len(value)} strings"
        else:
            text = repr(value)
            found = text if len(text) <= 80 else text[:77] + "..."
        return ModelFileError(f"{key!r} is {found}, but must be {expected}", path=self._path)


def _as_integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _as_boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _as_string(value: object) -> str | None:
    return value if isinstance(value, str) else None
