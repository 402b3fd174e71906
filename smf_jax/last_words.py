"""What is told of a process that ends before it can tell anything itself.

A process that is killed tells nothing, nor does one that a library aborts: a shell that waits for
the end of a pipe speaks for it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# The signals of a terminal are the process's, which ends in its own time.
_WAIT = 'trap "" INT TERM HUP; read -r ended && exit'
_TELL = 'printf "\\n%s\\n" "$1" >&2; shift; rm -rf -- "$@"'


@contextmanager
def last_words(text: str, *scratch: str) -> Iterator[None]:
    """Writes a line to standard error if this process is gone before the block ends.

    Then directories of ``scratch``, which it would have removed, go too. Nothing is written when
    the block ends, also by an error, which is told by whoever catches it.
    """
    reader, writer = os.pipe()
    command = ["/bin/sh", "-c", f"{_WAIT}; {_TELL}", "sh", text, *scratch]
    shell = subprocess.Popen(command, stdin=reader, stdout=subprocess.DEVNULL)
    os.close(reader)
    try:
        yield
    finally:
        os.write(writer, b"\n")
        os.close(writer)
        shell.wait()
