"""How the `gpu-synth` command ends: an exit code that programs can go by, and one line for people."""

import dis
import errno
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from types import TracebackType

MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}  # a disk that is full, broken or gone: no mistake, and work has begun
CHECKING = ("gpu_synth", "lightning")  # packages whose own `raise` tells the user what to change


class Exit(IntEnum):
    """Exit codes, the same for every subcommand."""

    DONE = 0
    PARTLY = 1
    MISTAKE = 2
    FAILED = 3
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    Exit.DONE: "done",
    Exit.PARTLY: "done, but not all of it: scans refused, predictions missing, a row or a check that failed; the output names them",
    Exit.MISTAKE: "an option, file or configuration cannot be used: one line says which, and nothing was begun",
    Exit.FAILED: "a bug, or the machine's failure: one line says where; --debug shows the traceback, else a file holds it",
    Exit.INTERRUPTED: "Ctrl-C (SIGTERM: 143); fit writes a checkpoint first",
    Exit.PIPE_CLOSED: "whoever read the output has gone, as with | head",
}


def run_to_exit(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command to an exit code: what the user can mend is one line on stderr, and so is all else.

    Args:
        command: What to run.
        debug: Show tracebacks.

    Returns:
        The command's own code, or one that tells why it did not come to its end.
    """
    try:
        return _flushed(command())
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print("gpu-synth: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except SystemExit as stop:  # after help; or by rich, where nobody reads the output, with a code that would mean something else
        if isinstance(stop.__context__, BrokenPipeError) or _flushed(Exit.DONE) != Exit.DONE:
            return _pipe_closed()
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return _pipe_closed()
        if debug:
            traceback.print_exc()
        if is_mistake(error):
            print(f"gpu-synth: error: {_words(error)}", file=sys.stderr)
            return Exit.MISTAKE
        print(f"gpu-synth: failed: {_what_and_where(error)}{'' if debug else _kept(error)}", file=sys.stderr)
        return Exit.FAILED


def _flushed(code: int) -> int:
    """The code, once all output has gone out; what is left would otherwise fail to when the process ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_closed()
    return code


def is_mistake(error: Exception) -> bool:
    """Whether an error is a check's of ours or of Lightning's, or the file system's, and came before any step of training.

    What another library raises of its own, of arguments that we gave it, is no message for users.
    """
    trace = error.__traceback__
    if trace is None:
        return False
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    trains = any(f.f_code.co_name == "advance" and f.f_globals["__name__"].endswith("loops.training_epoch_loop") for f in frames)
    said = isinstance(error, (ValueError, TypeError, ImportError)) or type(error).__name__ == "MisconfigurationException"
    known = isinstance(error, OSError) and error.errno not in MACHINE
    return not trains and (known or (said and _was_raised_by_a_check(trace)))


def _words(error: Exception) -> str:
    """Its message; the file system's without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _was_raised_by_a_check(trace: TracebackType) -> bool:
    """Whether a `raise` of a package that checks is where an error began, rather than what it called with wrong arguments."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raised = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    known = trace.tb_frame.f_globals  # the package first: a module that is run is named __main__
    return raised and str(known.get("__package__") or known.get("__name__")).partition(".")[0] in CHECKING


def _what_and_where(error: Exception) -> str:
    """The error's kind and first line, and the last place of ours that it came through."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    ours = [(f, line) for f, line in traceback.walk_tb(error.__traceback__) if "gpu_synth" in str(f.f_globals.get("__name__"))]
    place = f" ({ours[-1][0].f_globals['__name__']}, line {ours[-1][1]})" if ours else ""
    return f"{type(error).__name__}: {first}{place}"


def _kept(error: Exception) -> str:
    """Keep the traceback in a file, as what failed after hours cannot be run again to see it; say which."""
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="gpu-synth-", suffix=".log")
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
    except OSError:
        return f"\n{text}"
    return f"; traceback in {name}, or here with --debug"


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    with suppress(OSError, ValueError, AttributeError):  # no descriptor, or a system without poll
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _pipe_closed() -> int:
    """Let the interpreter flush what is left into nothing, as it would complain of the pipe again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE_CLOSED
