"""What the ranks of tests do: join the group and add numbers up; PROGRAM says what befalls them on the way."""

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.argv[0] = "hybrid-dense"  # nothing to register
    import torch
    import torch.distributed as dist

    from hybrid_dense.engine.distributed import end_process, join_group

    program, rank, folder = os.environ["PROGRAM"], int(os.environ["RANK"]), Path(os.environ["FOLDER"])
    starts = folder / f"starts{rank}"
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    if program == "mistake":
        # The others wait for a rank that will not come.
        sys.exit(2 if rank == 0 else time.sleep(60))
    restarted = join_group("gloo", 30)
    if program == "stop":
        received = []
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: received.append(1))
        (folder / f"ready{rank}").touch()
        while not received:
            time.sleep(0.05)
        time.sleep(1)
        (folder / f"saved{rank}").touch()
        end_process(143)
    (folder / f"pid{rank}").write_text(str(os.getpid()))
    while program == "until restarted":
        number = torch.tensor(float(restarted))
        dist.all_reduce(number)
        if number:
            break
        time.sleep(0.05)
    for step in range(4):
        dist.all_reduce(torch.ones(1))
        if program == "killed once" and rank == 1 and step == 2 and not restarted:
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"done{rank}").write_text(str(restarted))
    end_process(0)
