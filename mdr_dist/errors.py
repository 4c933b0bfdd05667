"""The exceptions with a meaning to the command line."""


class UserError(Exception):
    """The user's input is wrong; its text is one line: what, where, and what would be right.

    The command line prints the line without a traceback and exits with 2. Everything else that escapes is a fault of
    ours and exits with 1. Line breaks and control characters, as from names in what is refused, become spaces.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in text))


class Fault(Exception):  # noqa: N818 (the word for it)
    """A fault of ours stopped a run; its text is one line: what, and which file of the run holds the traceback."""


class Left(Exception):  # noqa: N818 (no error)
    """The workers of a lane ended with a checkpoint, as who started them asked: to stop, or to go on as more."""


class Stopped(Exception):  # noqa: N818 (no error)
    """The run was asked to end (SIGTERM) and did, with a checkpoint."""
