"""Runs one command and prints what it cost: wall, user and system seconds, peak KiB, exit status.

    python -I -S launch.py STDOUT STDERR COMMAND [ARGUMENT ...]

A process of its own because Linux counts the memory of the process that started a command as the
command's own until it has replaced it. This one is small, so no peak below some 8 MiB is seen.
"""

import os
import signal
import sys
import time


def main() -> int:
    out, err, *command = sys.argv[1:]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, out, write, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, err, write, 0o644),
    ]
    started = time.perf_counter()
    try:
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    exit_status = os.waitstatus_to_exitcode(status)
    print(seconds, used.ru_utime, used.ru_stime, used.ru_maxrss, exit_status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
