"""The two errors that users meet, and how a message names what there is."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of a message about an unknown name that says which ones there are."""
    known = sorted(known)
    close = get_close_matches(name, known, 1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}there are: {', '.join(known)}"


def in_one_line(text: str) -> str:
    """Text without line breaks, and without what UTF-8 cannot say (halves of surrogates)."""
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


def reason_of(error: Exception) -> str:
    """What was raised, in one line: its kind, where that says more than its words."""
    kinds = {ValueError: "", KeyError: "it lacks "}
    return kinds.get(type(error), f"{type(error).__name__}: ") + in_one_line(str(error))[:300]


class GengapError(Exception):
    """What was given, what was expected, what to do: one sentence that a user can act on."""


class NotAvailable(GengapError):
    """A model or collection lacks what was asked for; the measure table records the reason."""
