"""A training in miniature: a step every 20 ms, a checkpoint after each, resumed from it, an end on SIGTERM.

python fake_train.py WORK_DIR SEED STEPS [--kill-parent-at STEP | --fail]
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

work_dir, seed, steps, *how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
if how == ["--fail"]:
    print("fake: error: no data")
    sys.exit(2)
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: told.append(number))
latest = work_dir / "last.pth"
done = int(latest.read_text()) if latest.is_file() else 0
scalars = work_dir / f"{time.time_ns():020d}" / "vis_data" / "scalars.json"
scalars.parent.mkdir(parents=True)
(scalars.parents[1] / "run.log").write_text(f"started after step {done} in {work_dir.absolute()}\n")
(work_dir / "config.py").write_text(f"work_dir = '{work_dir.absolute()}'\n")
with scalars.open("a") as log:
    for step in range(done + 1, steps + 1):
        time.sleep(0.02)
        print(json.dumps(dict(time=0.5, epoch=step, iter=step, step=step)), file=log)
        print(json.dumps(dict(mIoU=10.0 * step + seed, step=step)), file=log, flush=True)
        latest.write_text(str(step))
        if how[:1] == ["--kill-parent-at"] and step == int(how[1]):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(0.2)
        if told:
            sys.exit(128 + told[0])
