"""The two errors that users meet."""


class GengapError(Exception):
    """What was given, what was expected, what to do: one sentence that a user can act on."""


class NotAvailable(GengapError):
    """A model or collection lacks what was asked for; the measure table records the reason."""
