"""Responses that clients may come back to: in memory, for the API key that made them, the oldest forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from stride.errors import RequestError
from stride.server import sse
from stride.server.responses.items import Item

MAX_BYTES = 64 << 20
"""Of all that is kept, as JSON."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, and the items of the request that it answers."""

    response: dict[str, Any]
    input: Sequence[Item]
    n_bytes: int


class Store:
    """Responses by owner and id. Belongs to the event loop's thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()  # the least recently used first

    def keep(self, owner: str, response: dict[str, Any], items: Sequence[Item]) -> None:
        """Remember a response. Where room is short the oldest go, down to this one if it alone is too large."""
        size = len(sse.to_json([response, items]))
        self._kept[owner, response["id"]] = Kept(response, items, size)
        self._n_bytes += size
        while self._n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= oldest.n_bytes

    def get(self, owner: str, response_id: str) -> Kept:
        """A response.

        Raises:
            HTTPException: 404, there is none of that id, or it is another's.
        """
        kept = self._kept.get((owner, response_id))
        if kept is None:
            raise HTTPException(404, f"there is no response {response_id!r} (any more)")
        self._kept.move_to_end((owner, response_id))
        return kept

    def delete(self, owner: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            HTTPException: 404, there is none of that id.
        """
        self._n_bytes -= self.get(owner, response_id).n_bytes
        del self._kept[owner, response_id]

    def history(self, owner: str, response_id: str | None) -> list[Item]:
        """Every item up to and including a response's own, the first turn's first.

        Raises:
            RequestError: a response is missing on the way.
        """
        turns: list[Sequence[Item]] = []
        while response_id is not None:
            try:
                kept = self.get(owner, response_id)
            except HTTPException as error:
                raise RequestError(f"previous_response_id: {error.detail}", field="previous_response_id") from None
            turns.append([*kept.input, *kept.response["output"]])
            response_id = kept.response["previous_response_id"]
        return [item for turn in reversed(turns) for item in turn]
