"""The one exception type a user's mistake raises; the command line prints it as one line and exits with 2."""


class GhostsearchError(Exception):
    """Bad input: the message says the rule, the value that broke it and the way out, in one line."""


class MissingExtraError(GhostsearchError):
    """An optional dependency is absent; the message holds the line that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'ghostsearch[{extra}]'")


class TrainingError(GhostsearchError):
    """Training broke off, such as on a loss that is not a number; a study records the trial as failed."""
