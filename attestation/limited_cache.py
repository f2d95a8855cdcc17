"""``functools.lru_cache`` that keeps nothing large, so that what it holds is bounded in bytes.

What is verified comes from whoever asks, and a cache holds its arguments: 256 entries with pools of 1 MiB
would be 256 MiB. Calls whose arguments are larger than a limit are made anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, update_wrapper
from typing import Generic, ParamSpec, TypeVar

from attestation.collateral import DcapCollateral

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class LimitedCache(Generic[_Parameters, _Result]):
    """A function with a cache of at most ``maxsize`` results, for arguments of at most ``largest`` bytes
    together.
    """

    def __init__(self, function: Callable[_Parameters, _Result], *, maxsize: int, largest: int) -> None:
        self._function, self._largest = function, largest
        wrapper = lru_cache(maxsize=maxsize)(function)
        self._kept: Callable[..., _Result] = wrapper
        self.cache_clear = wrapper.cache_clear
        update_wrapper(self, function)

    def __call__(self, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if size_of(args) > self._largest:
            return self._function(*args, **kwargs)
        return self._kept(*args, **kwargs)


def limited_cache(
    *, maxsize: int, largest: int
) -> Callable[[Callable[_Parameters, _Result]], LimitedCache[_Parameters, _Result]]:
    """The decorator. Large arguments are to be given by place: keywords are not counted."""

    def decorate(function: Callable[_Parameters, _Result]) -> LimitedCache[_Parameters, _Result]:
        return LimitedCache(function, maxsize=maxsize, largest=largest)

    return decorate


def size_of(values: Iterable[object]) -> int:
    """Bytes and characters in ``values``, which may be tuples or sets of DCAP collateral."""
    size = 0
    for value in values:
        if isinstance(value, bytes | str):
            size += len(value)
        elif isinstance(value, tuple | frozenset):
            size += size_of(value)
        elif isinstance(value, DcapCollateral):
            size += size_of([getattr(value, name) for name in DcapCollateral.__slots__])
    return size
