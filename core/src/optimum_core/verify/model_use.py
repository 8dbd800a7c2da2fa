"""Detection of functions that ignore the object that they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noting_use(thing: Any) -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether any attribute of an object was read since the block began.

    Until then the object is of a subclass of its own class; the first read, as of every call of a method, ends that, so
    that nothing is slower afterwards.
    """
    own = type(thing)

    def read(self: Any, name: str) -> Any:
        object.__setattr__(self, "__class__", own)
        return getattr(self, name)

    unused = type(own.__name__, (own,), {"__getattribute__": read})
    object.__setattr__(thing, "__class__", unused)
    try:
        yield lambda: type(thing) is not unused
    finally:
        object.__setattr__(thing, "__class__", own)
