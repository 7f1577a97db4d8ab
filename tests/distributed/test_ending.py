"""A process of a group ends without taking its interpreter down, and loses nothing by it."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import atexit, sys, threading, time
    import torch.distributed as dist
    from hybrid_dense.cli import end

    class Last:
        def __del__(self):
            print("taken down")

    last = Last()
    if "group" in sys.argv:
        store = dist.FileStore(sys.argv[1], 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    atexit.register(print, "closed")
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    sys.exit(end(7))
"""


@pytest.mark.parametrize(("mode", "said"), [("group", ["thread", "closed"]), ("", ["thread", "closed", "taken down"])])
def test_everything_is_closed_and_written(tmp_path, mode, said):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), tmp_path / "store", mode],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.split("\n")[:-1] == said
