"""The requests that wait: those of one scope in their order, the scopes in turn. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from stride.engine.request import Request


class FairQueue:
    """Waiting requests. Iterating gives them in the order in which they should go, as things stand: the first of each
    ``cache_scope``, then the second of each; of the scopes, the one whose last turn is longest ago comes first.

    A new scope comes last, so that it waits for one request of each other at most, however many those have.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[Request, None]] = {}  # the next scope first

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[Request]:
        rounds = list(zip_longest(*self._of.values()))  # removing while iterating harms nothing
        return (request for turn in rounds for request in turn if request is not None)

    def append(self, request: Request) -> None:
        """Add a request behind those of its scope."""
        self._of.setdefault(request.cache_scope, {})[request] = None

    def remove(self, request: Request) -> None:
        """Take out a request that is not to run; its scope keeps its turn."""
        own = self._of[request.cache_scope]
        del own[request]
        if not own:
            del self._of[request.cache_scope]

    def take(self, request: Request) -> None:
        """Take out a request that has its turn: its scope's next comes after the others'."""
        own = self._of.pop(request.cache_scope)
        del own[request]
        if own:
            self._of[request.cache_scope] = own

    def displace(self, scope: str) -> Request | None:
        """Make a place for a request of a scope in a queue that is full: take out the newest of the scope with the most
        requests, unless that has no more than the given one would have."""
        longest = max(self._of.values(), key=len, default=None)
        if longest is None or len(longest) <= len(self._of.get(scope, ())) + 1:
            return None
        newest = next(reversed(longest))
        self.remove(newest)
        return newest
