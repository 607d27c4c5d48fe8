"""The `gpu-synth` command: one function a subcommand, imports inside; the only file that knows every room."""

import dis
import sys
from collections.abc import Callable, Sequence
from traceback import walk_tb
from types import TracebackType
from typing import Any, get_args, get_origin, get_type_hints

from gpu_synth import __version__


def demo(arguments: Sequence[str]) -> int:
    """Phantom CTs, a short training, a table and pictures; needs no data and no GPU."""
    from gpu_synth.trainers.demo import demo as run

    return int(_call(run, arguments, "demo") or 0)


def prepare(arguments: Sequence[str]) -> int:
    """Scans and masks, NIfTI or DICOM, to RAS, one spacing, int16 HU, cached with a manifest."""
    from gpu_synth.prepare import prepare as run

    return 1 if _call(run, arguments, "prepare").refused else 0


def preview(arguments: Sequence[str]) -> int:
    """Pictures of what is synthesised: before and after, a gallery, presets side by side."""
    from gpu_synth.preview_files import preview_files as run

    return int(_call(run, arguments, "preview") or 0)


def nnunet_dataset(arguments: Sequence[str]) -> int:
    """CTs and organ masks as a raw data set of nnU-Net v2."""
    from gpu_synth.trainers.nnunet_dataset import nnunet_dataset as run

    return 1 if _call(run, arguments, "nnunet-dataset") else 0


def nnunet_fingerprint(arguments: Sequence[str]) -> int:
    """Its fingerprint, so that nnU-Net does not clip lesions away."""
    from gpu_synth.trainers.nnunet_fingerprint import nnunet_fingerprint as run

    return int(_call(run, arguments, "nnunet-fingerprint") or 0)


def bench(arguments: Sequence[str]) -> int:
    """What synthesis costs on this machine, and the floor."""
    from gpu_synth.bench.run import bench as run

    return int(_call(run, arguments, "bench"))


def fit(arguments: Sequence[str]) -> int:
    """Train: --config liver.yaml --data.data_dir cache."""
    return _lightning("fit", arguments)


def validate(arguments: Sequence[str]) -> int:
    """Score held-out scans with synthetic tumours."""
    return _lightning("validate", arguments)


def test(arguments: Sequence[str]) -> int:
    """Score annotated scans: --data.test_dir."""
    return _lightning("test", arguments)


def predict(arguments: Sequence[str]) -> int:
    """Segment CT files, onto their own grids: --data.predict_images."""
    return _lightning("predict", arguments)


def evaluate(arguments: Sequence[str]) -> int:
    """Score predictions against references: DSC, NSD, lesions by size, a report."""
    from gpu_synth.evaluate.run import evaluate as run

    scores = _call(run, arguments, "evaluate")
    return 1 if scores["refused"] or any(scores["missing"].values()) else 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    command.__name__.replace("_", "-"): command
    for command in (demo, prepare, preview, fit, validate, test, predict, evaluate, nnunet_dataset, nnunet_fingerprint, bench)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; what the user can mend is one line on stderr and exit code 2, all else Python's traceback.

    Args:
        arguments: Subcommand and its options; the process's by default.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"gpu-synth {__version__}")
        return 0
    if name not in COMMANDS:
        return _fail(f"subcommand must be one of {', '.join(COMMANDS)}, got {name!r}")
    try:
        return COMMANDS[name](rest)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if not _is_refusal(error):
            raise
        return _fail(str(error))


def _is_refusal(error: Exception) -> bool:
    """Whether an error is a check's of ours, or the file system's, before any step of training: then its message is all one needs."""
    trace = error.__traceback__
    assert trace is not None
    frames = [frame for frame, _ in walk_tb(trace)]
    trains = any(f.f_code.co_name == "advance" and f.f_globals["__name__"].endswith("loops.training_epoch_loop") for f in frames)
    return not trains and (isinstance(error, OSError) or _was_raised_here(trace))


def _was_raised_here(trace: TracebackType) -> bool:
    """Whether a `raise` of this package is where an error began, rather than what it called with wrong arguments."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raised = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return raised and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "gpu_synth"


def _call(run: Callable[..., Any], arguments: Sequence[str], name: str) -> Any:
    """Let jsonargparse make options of a function's parameters and help of its docstring."""
    from jsonargparse import auto_cli

    return auto_cli(run, args=_as_options(run, arguments), prog=f"gpu-synth {name}", as_positional=False)


def _as_options(run: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Let several values be given as 1,1,1 where jsonargparse asks for [1,1,1], and a switch without its "true"."""
    hints = {f"--{name}": hint for name, hint in get_type_hints(run).items()}
    several = [option for option, hint in hints.items() if any(get_origin(part) is tuple for part in (hint, *get_args(hint)))]
    out = list(arguments)
    for n, argument in enumerate(out):
        option, equals, value = argument.partition("=")
        last = n + 1 == len(out)
        if hints.get(argument) is bool and (last or out[n + 1].startswith("--")):
            out[n] = f"{argument}=true"
        if option not in several or (not equals and last):
            continue
        at, value = (n, value) if equals else (n + 1, out[n + 1])
        if value[:1] not in ("[", "("):
            out[at] = f"{option}=[{value}]" if equals else f"[{value}]"
    return out


def _lightning(name: str, arguments: Sequence[str]) -> int:
    from gpu_synth.trainers.fit import train

    train([name, *arguments])
    return 0


def _help() -> str:
    lines = [f"  {name:19}{(command.__doc__ or '').strip().splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: gpu-synth <subcommand> [options]; gpu-synth <subcommand> --help", "", *lines])


def _fail(message: str) -> int:
    print(f"gpu-synth: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
