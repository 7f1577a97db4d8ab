"""How a process of a training ends: the exit codes (docs/resilience.md), and an end on purpose, all saved."""

from __future__ import annotations

# What the user has to mend, or an error that would come again: no launcher of ours starts such a training anew.
WRONG_INPUT = 2
# Something was not finite.
SICK = 3
# EX_IOERR of sysexits.h: the training is sound, its disk is full or broken.
WRITE_FAILED = 74
# After Ctrl-C, and after SIGTERM or SIGUSR1. A scheduler that sees 143 may start the same job again.
INTERRUPTED, TERMINATED = 130, 143


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


def is_misspelt(error: Exception) -> bool:
    """Whether this is the one TypeError or KeyError that is the user's: a config names a parameter that its class does
    not have, or a class that is not registered."""
    wanted = {TypeError: "unexpected keyword argument", KeyError: " registry. Please check"}
    return any(isinstance(error, kind) and text in str(error) for kind, text in wanted.items())
