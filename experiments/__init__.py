"""The commands, one file each (`python -m experiments.NAME --help`), and what they share."""

import os
import signal
import sys


def _leave(number: int, _: object) -> None:
    told = f"stopped by {signal.Signals(number).name} before anything began; "
    told += "go on with --resume" if "experiments.sweep" in sys.orig_argv else "run it again"
    os.write(2, f"{told}\n".encode())
    os._exit(128 + number)


if sys.argv[:1] == ["-m"]:  # a command: before `experiments.cli.run` come seconds of imports
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _leave)
