"""One machine of a cluster of tests: `python ray_machine.py COMMAND ...`, until its stdin is closed.

Then all that the command started dies at once, as with the power of a machine: also what lost its parent
or began a session of its own. A test that is killed closes the stdin too.
"""

import ctypes
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans below this process become its children


def main() -> None:
    """Run the command until stdin is closed, then kill everything below this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("the kernel does not let this process take orphans in")
    subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets orphans when they end
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    kill_all()


def kill_all() -> None:
    """Kill what is below this process, and what that started meanwhile."""
    while family := psutil.Process().children(recursive=True):
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
