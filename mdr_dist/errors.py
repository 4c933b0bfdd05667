"""The one exception that means "your input is wrong"."""


class UserError(Exception):
    """The user's input is wrong; its text is one line: what, where, and what would be right.

    The command line prints the line without a traceback and exits with 2. Everything else that
    escapes is a fault of ours and exits with 1.
    """
