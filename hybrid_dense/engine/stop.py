"""A training that ends early on purpose, with everything saved."""

from __future__ import annotations


class TrainingStopped(SystemExit):
    """Ends the process with an exit code of its own, without a traceback: a signal came, or the training fell ill.

    Args:
        exit_code: what the process ends with, such as 143 after SIGTERM.
        message: one line on why, and the command that goes on.
    """

    def __init__(self, exit_code: int, message: str):
        super().__init__(exit_code)
        self.message = message

    def __str__(self) -> str:
        return self.message
