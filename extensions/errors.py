"""The one error that people see: a sentence that says what to do."""

import click


class SkewlessError(click.ClickException):
    """A mistake or a missing part that the person at the keyboard can mend.

    Feast's and our own command lines both run on click, so either prints the sentence
    alone, without a traceback, and exits with ``exit_code``, one of `extensions.exit_codes`.
    """

    def __init__(self, sentence: str, *, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it per class
