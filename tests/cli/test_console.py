"""What commands keep from the terminal, to the letter, and what they do not."""

import io
import logging
import warnings
from contextlib import redirect_stdout

import pytest
from mmengine.logging import MMLogger

from hybrid_dense.cli.console import NOISE, PRELUDE, Sieve, without, without_noise


def printed(patterns, *lines) -> str:
    stream = io.StringIO()
    with redirect_stdout(Sieve(stream, patterns)):
        for line in lines:
            print(line)
    return stream.getvalue()


def test_lines_of_the_hosts_are_dropped_whole_and_nothing_else():
    hosts = ["Could not import OneDL", "Could not import OneDL. Skipping OneDL datasets."]
    assert printed(NOISE, *hosts) == ""
    kept = ["Could not import OneDL: the disk is full", "", "index created!", " Could not import OneDL"]
    assert printed(NOISE, "a", *hosts, "b", *kept) == "\n".join(["a", "b", *kept]) + "\n"


def test_without_patterns_everything_passes():
    assert printed((), "", "Could not import OneDL", "index created!") == "\nCould not import OneDL\nindex created!\n"


def test_a_sieve_is_its_stream_in_all_else():
    stream = io.StringIO()
    assert Sieve(stream, NOISE).isatty() is False
    assert Sieve(stream, NOISE).getvalue.__self__ is stream


@pytest.fixture
def log(tmp_path):
    """(log, seen): a function that logs through mmengine's logger, and one that reads terminal and file after it."""
    terminal, file = io.StringIO(), tmp_path / "run.log"
    with redirect_stdout(terminal), without(PRELUDE):
        # As mmengine's runners do, which hand the logger the standard output of that moment.
        logger = MMLogger(f"{tmp_path.name}", log_file=str(file))
    yield logger.log, lambda: (terminal.getvalue(), file.read_text())
    for handler in logger.handlers:
        handler.close()


DUMPS = [
    "\n" + "-" * 60 + "\nSystem environment:\n    sys.platform: linux\n",
    "Config:\nmodel = dict(type='MaskRCNN')\n",
    "Hooks will be executed in the following order:\nbefore_run:\n",
]


@pytest.mark.parametrize("text", DUMPS)
def test_dumps_stay_in_the_log_file(log, text):
    say, seen = log
    say(logging.INFO, text)
    say(logging.INFO, "load checkpoint from here\nand there")
    terminal, file = seen()
    assert text.strip().splitlines()[-1] in file and "load checkpoint" in file
    assert text.strip().splitlines()[-1] not in terminal
    assert terminal.count("\n") == 2 and "load checkpoint from here\nand there" in terminal


def test_only_the_named_warnings_of_torch_are_silenced():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_noise():
            warnings.warn("`broadcast_buffers` is deprecated. Use `forward_sync_buffers`", FutureWarning, stacklevel=1)
            warnings.warn("`broadcast_buffers` is deprecated", UserWarning, stacklevel=1)
            warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == [
        "`broadcast_buffers` is deprecated",
        "something else is deprecated",
    ]
