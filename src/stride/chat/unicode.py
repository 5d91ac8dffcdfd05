"""Texts that are none: Python's strings may hold halves of surrogate pairs, which no model can read."""

from __future__ import annotations

from stride.errors import RequestError


def check_text(text: str, field: str) -> None:
    """Refuse what cannot be written as UTF-8: halves of surrogate pairs.

    Raises:
        RequestError: names the field.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{field} has half of a surrogate pair, {text[error.start]!a}, which is no character", field=field
        ) from None
