"""The parent of a container's main process: it writes down how that process ended.

The node may crash or be replaced while containers run; this process stays and leaves the exit code and the
times in a file. It is started for every container, so it imports nothing but what the interpreter has built
in: ``python -I -S shim.py RUN_FILE``.

SIGTERM is passed on to the main process. When the main process ends, what is left of its process group is
killed. The rest of the container's processes is the node's to find.
"""

# A module of the standard library that imports enum costs several milliseconds at every start: "signal"
# does, its built-in half "_signal" does not.
import _signal  # type: ignore[import-not-found]  # it has no stub
import os
import sys
import time

SIGTERM = 15
SIGKILL = 9
NOT_STARTED = 128
"""The exit code that container runtimes give a process that could not be started."""
DEFAULT_SIGNALS = (_signal.SIGPIPE, _signal.SIGXFSZ)
"""Python ignores them, and an ignored signal stays ignored in a child."""


def main(run_file: str) -> int:
    """Run what the file says: executable, folder, log, exit record, number of arguments, then the rest."""
    with open(run_file, "rb") as stream:  # noqa: PTH123  pathlib takes milliseconds to import
        fields = stream.read().split(b"\0")
    executable, directory, log, record, count = fields[:5]
    arguments = fields[5 : 5 + int(count)]
    environment = dict(entry.split(b"=", 1) for entry in fields[5 + int(count) :] if entry)

    _signal.pthread_sigmask(_signal.SIG_BLOCK, {SIGTERM})  # already so where the node started this
    started = time.time()
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(directory)
        child = os.posix_spawn(
            executable, arguments, environment, setsid=True, setsigmask=(), setsigdef=DEFAULT_SIGNALS
        )
    except OSError as error:
        write_record(record, NOT_STARTED, started, str(error))
        return 0
    _signal.signal(SIGTERM, lambda *_: os.kill(child, SIGTERM))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {SIGTERM})

    # The child stays a zombie until its group is killed, so that its number can't be another's by then.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    _signal.signal(SIGTERM, _signal.SIG_IGN)
    finished = time.time()
    try:  # noqa: SIM105  contextlib takes milliseconds to import
        os.killpg(child, SIGKILL)
    except OSError:
        pass  # nobody is left
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    write_record(record, code if code >= 0 else 128 - code, started, "", finished)
    return 0


def write_record(path: bytes, code: int, started: float, message: str, finished: float = 0.0) -> None:
    """Write the exit code, both times and the error in one step."""
    partial = path + b".partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, f"{code}\n{started!r}\n{finished or time.time()!r}\n{message}\n".encode())
    os.close(descriptor)
    os.rename(partial, path)  # noqa: PTH104  pathlib takes milliseconds to import


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
