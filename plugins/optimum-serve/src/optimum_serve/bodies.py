"""Bodies of requests, and what is made of them: each with its own limits, and one for all in memory at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from optimum_serve.errors import RequestError, busy

#: Digits of the greatest length.
_DIGITS = 18
#: Seconds after which a request that found no room may come again.
_LATER = 2.0


@dataclass(kw_only=True, slots=True)
class Bodies:
    """The bodies that are in memory, and what was made of them; in the event loop alone.

    Attributes:
        most: their bytes together, at most.
        held: their bytes now.
    """

    most: int
    held: int = 0


class Body:
    """The body of one request.

    Args:
        bodies: all that are in memory.
        most: its bytes.
        seconds: until it has come whole.
    """

    def __init__(self, bodies: Bodies, most: int, seconds: float) -> None:
        self._bodies, self._most, self._seconds = bodies, most, seconds
        self._size = 0

    async def read(self, request: Request) -> bytes:
        """Return it.

        Raises:
            RequestError: it is too large (413), did not come whole in time (408), or others fill the memory (429).
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            message = f"Content-Encoding {encoding} is not read: send the body as it is"
            raise RequestError(status=415, kind="not_supported", message=message)
        stated = whole_number(request.headers.get("content-length", ""))
        if stated is not None and stated > self._most:
            raise self._too_large()
        parts = []
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    self._take(len(part))
                    parts.append(part)
        except TimeoutError:
            message = f"the body did not come within {self._seconds:g} s"
            raise RequestError(status=408, kind="slow", message=message) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, size: int) -> None:
        if self._size + size > self._most:
            raise self._too_large()
        try:
            self.hold(size)
        except RequestError as problem:
            problem.headers["Connection"] = "close"
            raise

    def hold(self, size: int) -> None:
        """Count so many bytes more: what was made of the body, such as pictures, of which few bytes may have come.

        Raises:
            RequestError: others fill the memory (429).
        """
        others = self._bodies.held - self._size
        if others and self._bodies.held + size > self._bodies.most:
            raise busy(f"other requests fill the {self._bodies.most} bytes for bodies", _LATER)
        self._size += size
        self._bodies.held += size

    def release(self) -> None:
        """Make room for others: the request has been answered."""
        self._bodies.held -= self._size
        self._size = 0

    def _too_large(self) -> RequestError:
        message = f"the body is larger than {self._most} bytes"
        return RequestError(status=413, kind="too_large", message=message, headers={"Connection": "close"})


def whole_number(stated: str) -> int | None:
    """Return the number that a header states; None: it states none, or one of more digits than any length has."""
    is_number = stated.isascii() and stated.isdigit() and len(stated) <= _DIGITS
    return int(stated) if is_number else None
