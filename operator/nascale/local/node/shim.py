"""The parents of containers: each starts a main process and writes down how it ended.

The node may crash or be replaced while containers run; a shim stays and leaves the exit code and the times in
a file. Shims are forked by a server, ``python -I -S shim.py``, which starts once with the node and ends with
it: to fork costs a tenth of starting an interpreter, and a trial pays it before anything else. The server
reads one run file's path per message from its standard input, a socket. It answers with the shim's pid when
that is written down beside the run's exit record.

SIGTERM is passed on to the main process. When the main process ends, what is left of its process group is
killed. The rest of the container's processes is the node's to find.
"""

# Nothing but what the interpreter has built in: the server starts fast and stays small.
import _signal  # type: ignore[import-not-found]  # it has no stub
import os
import sys
import time

SIGTERM = 15
SIGKILL = 9
NOT_STARTED = 128
"""The exit code that container runtimes give a process that could not be started."""
DEFAULT_SIGNALS = _signal.valid_signals() - {SIGKILL, _signal.SIGSTOP}
"""An ignored signal stays ignored in a child: Python ignores SIGPIPE, a shell those of the keyboard for what
it starts in the background."""
MAX_MESSAGE = 65536
STANDARD_INPUT = 0
RECORD = 3
"""Which field of a run file is the exit record's path."""


def serve() -> int:
    """Fork a shim for every message until the node closes the socket."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # nobody waits for shims: let them go at once
    while True:
        message = os.read(STANDARD_INPUT, MAX_MESSAGE)
        if not message:
            return 0
        with open(message, "rb") as stream:  # noqa: PTH123  pathlib is not built in
            fields = stream.read().split(b"\0")
        # The shim takes it by waiting for it: none is lost, and none ends the shim halfway.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, {SIGTERM})
        shim = os.fork()
        if shim == 0:
            become_shim(fields)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {SIGTERM})
        note_shim(fields[RECORD], shim)
        os.write(STANDARD_INPUT, str(shim).encode())


def note_shim(record: bytes, shim: int) -> None:
    """Write down which process the shim is, so that another run of the node finds it."""
    try:
        ticks = start_ticks(shim)
    except OSError:
        return  # it has ended already, and its record is there
    write(shim_file(record), f"{shim} {ticks} {boot()}".encode())


def become_shim(fields: list[bytes]) -> None:
    """Leave the server behind and run one container to its end."""
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, STANDARD_INPUT)
        os.close(nothing)
        run(fields)
    finally:
        os._exit(0)


def run(fields: list[bytes]) -> None:
    """Run what the fields say: executable, folder, log, exit record, number of arguments, then the rest."""
    executable, directory, log, record, count = fields[:5]
    arguments = fields[5 : 5 + int(count)]
    environment = dict(entry.split(b"=", 1) for entry in fields[5 + int(count) :] if entry)

    # The end of the main process stays pending until it is waited for, however early it comes.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGCHLD})
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
        return
    pass_on_until_end(child)
    finished = time.time()
    try:  # noqa: SIM105  contextlib is not built in
        os.killpg(child, SIGKILL)
    except OSError:
        pass  # nobody is left
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    write_record(record, code if code >= 0 else 128 - code, started, "", finished)


def pass_on_until_end(child: int) -> None:
    """Pass SIGTERM on to the main process until it has ended.

    Signals are waited for, not handled: one that a handler notes just before a blocking call would be acted
    on only after that call. The child stays a zombie, so that its number can't be another's before its group
    is killed.
    """
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if _signal.sigwait({SIGTERM, _signal.SIGCHLD}) == SIGTERM:
            os.kill(child, SIGTERM)


def write_record(path: bytes, code: int, started: float, message: str, finished: float = 0.0) -> None:
    """Write the exit code, both times and the error in one step."""
    write(path, f"{code}\n{started!r}\n{finished or time.time()!r}\n{message}\n".encode())


def write(path: bytes, content: bytes) -> None:
    """Write a file in one step."""
    partial = path + b".partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, content)
    os.close(descriptor)
    os.rename(partial, path)  # noqa: PTH104  pathlib is not built in


def shim_file(record: bytes) -> bytes:
    """Return the path of the file that says who the shim is, beside its exit record."""
    return record + b".shim"


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did: pids are used again.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123  pathlib is not built in
        # The second field is the program's name in brackets, which may hold spaces and brackets.
        return int(stream.read().rsplit(b")", 1)[1].split()[19])


def boot() -> str:
    """Return the identity of this run of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as stream:  # noqa: PTH123  pathlib is not built in
        return stream.read().strip()


if __name__ == "__main__":
    sys.exit(serve())
