"""The `gpu-synth` command: one function a subcommand, imports inside; the only file that knows every room.

The first line of a subcommand's docstring is its line in `gpu-synth --help`, the rest is the example that its own help ends with. Exit
codes, and what is printed of errors: `gpu_synth.exits`.
"""

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from gpu_synth import __version__
from gpu_synth.exits import MEANINGS, Exit, run_to_exit

Command = Callable[[Sequence[str]], int]


def demo(arguments: Sequence[str]) -> int:
    """Phantom CTs, a short training, a table and pictures; needs no data and no GPU.

    gpu-synth demo --out demo-output
    """
    from gpu_synth.trainers.demo import demo as run

    return int(_call(run, arguments, demo) or 0)


def prepare(arguments: Sequence[str]) -> int:
    """Scans and masks, NIfTI or DICOM, to RAS, one spacing, int16 HU, cached with a manifest.

    gpu-synth prepare --images '/data/*_ct.nii.gz' --labels '/data/*_liver.nii.gz' --out cache
    """
    from gpu_synth.prepare.run import prepare as run

    manifest = _call(run, arguments, prepare, lambda made: json.loads((made.root / "manifest.json").read_text()))
    return Exit.PARTLY if manifest.refused else Exit.DONE


def preview(arguments: Sequence[str]) -> int:
    """Pictures of what is synthesised: before and after, a gallery, presets side by side.

    gpu-synth preview --image case01_ct.nii.gz --label case01_liver.nii.gz --out case01.png
    gpu-synth preview --gallery --out gallery.png
    """
    from gpu_synth.preview.run import preview_files as run

    return int(_call(run, arguments, preview) or 0)


def synthesize(arguments: Sequence[str]) -> int:
    """CTs with tumours, labels, instance maps and plans as NIfTI and JSON, and a data card.

    gpu-synth synthesize --images '/data/*_ct.nii.gz' --labels '/data/*_liver.nii.gz' --variants 10 --out synthetic
    gpu-synth synthesize --images case01_ct.nii.gz --labels case01_liver.nii.gz --plan edited.json --out synthetic
    """
    from gpu_synth.synthesize.run import synthesize as run

    result = _call(run, arguments, synthesize, lambda done: done.as_json())
    return Exit.PARTLY if result.refused else Exit.DONE


def nnunet_dataset(arguments: Sequence[str]) -> int:
    """CTs and organ masks as a raw data set of nnU-Net v2.

    gpu-synth nnunet-dataset --dataset 900 --data_dir cache
    """
    from gpu_synth.trainers.nnunet_dataset import nnunet_dataset as run

    return Exit.PARTLY if _call(run, arguments, nnunet_dataset) else Exit.DONE


def nnunet_fingerprint(arguments: Sequence[str]) -> int:
    """Its fingerprint, so that nnU-Net does not clip lesions away.

    gpu-synth nnunet-fingerprint --dataset 900
    """
    from gpu_synth.trainers.nnunet_fingerprint import nnunet_fingerprint as run

    return int(_call(run, arguments, nnunet_fingerprint) or 0)


def bench(arguments: Sequence[str]) -> int:
    """What synthesis costs on this machine, and the floor.

    gpu-synth bench --names synthesis,gaussian --out result.json
    """
    from gpu_synth.bench.report import as_json
    from gpu_synth.bench.run import bench as run

    result = _call(run, arguments, bench, lambda result: result and as_json(result))
    whole = result is not None and all(failure.out_of_memory for failure in result.failures)
    return Exit.DONE if whole else Exit.PARTLY


def fit(arguments: Sequence[str]) -> int:
    """Train: --config liver.yaml --data.data_dir cache.

    gpu-synth fit --config liver.yaml --data.data_dir cache
    gpu-synth fit --config liver.yaml --data.data_dir cache --ckpt_path last
    """
    return _lightning(fit, arguments)


def validate(arguments: Sequence[str]) -> int:
    """Score held-out scans with synthetic tumours.

    gpu-synth validate --config liver.yaml --data.data_dir cache --ckpt_path runs/liver/version_0/checkpoints/best.ckpt
    """
    return _lightning(validate, arguments)


def test(arguments: Sequence[str]) -> int:
    """Score annotated scans: --data.test_dir.

    gpu-synth test --config liver.yaml --data.data_dir cache --data.test_dir annotated --ckpt_path runs/version_0/checkpoints/best.ckpt
    """
    return _lightning(test, arguments)


def predict(arguments: Sequence[str]) -> int:
    """Segment CT files, onto their own grids: --data.predict_images.

    gpu-synth predict --ckpt_path runs/liver/version_0/checkpoints/best.ckpt --data.predict_images /new/ct
    """
    return _lightning(predict, arguments)


def evaluate(arguments: Sequence[str]) -> int:
    """Score predictions against references: DSC, NSD, lesions by size, a report.

    gpu-synth evaluate --predictions predictions --references /new/masks --images /new/ct --out report
    """
    from gpu_synth.evaluate.run import evaluate as run

    scores = _call(run, arguments, evaluate, lambda scores: scores)
    return Exit.PARTLY if scores["refused"] or any(scores["missing"].values()) else Exit.DONE


def doctor(arguments: Sequence[str]) -> int:
    """What is installed, which devices are there, what is missing and what mends it; a self-test.

    gpu-synth doctor
    gpu-synth doctor --json > report.json
    """
    from argparse import ArgumentParser, RawDescriptionHelpFormatter  # the standard library's: a doctor must not need what it looks for

    from gpu_synth.doctor.report import show
    from gpu_synth.doctor.run import examine

    parser = ArgumentParser(
        prog="gpu-synth doctor",
        description=(doctor.__doc__ or "").splitlines()[0],
        epilog=_ending(doctor),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="write the findings to stdout as JSON, and the table to stderr")
    as_json = parser.parse_args(arguments).json
    findings = examine()
    show(findings, sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(findings.as_json(), indent=1, allow_nan=False))
    return Exit.DONE if findings.healthy else Exit.PARTLY


COMMANDS: dict[str, Command] = {
    command.__name__.replace("_", "-"): command
    for command in (
        *(demo, prepare, synthesize, preview),
        *(fit, validate, test, predict, evaluate),
        *(nnunet_dataset, nnunet_fingerprint, bench, doctor),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand to its exit code; see `gpu_synth.exits`.

    Args:
        arguments: Subcommand and its options; the process's by default. `--debug` may stand anywhere among them.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = [argument for argument in given if argument != "--debug"] or ["--help"]
    if name in ("-h", "--help"):
        return run_to_exit(lambda: print(_help()) or Exit.DONE)
    if name == "--version":
        print(f"gpu-synth {__version__}")
        return Exit.DONE
    return run_to_exit(partial(COMMANDS.get(name, partial(_unknown, name)), rest), "--debug" in given)


def _unknown(name: str, _: Sequence[str]) -> int:
    close = get_close_matches(name, COMMANDS, n=1)
    raise ValueError(f"subcommand must be one of {', '.join(COMMANDS)}, got {name!r}{f'; did you mean {close[0]}?' if close else ''}")


def _call(run: Callable[..., Any], arguments: Sequence[str], command: Command, to_json: Callable[[Any], Any] | None = None) -> Any:
    from gpu_synth.options import call

    return call(run, arguments, f"gpu-synth {command.__name__.replace('_', '-')}", _ending(command), to_json)


def _lightning(command: Command, arguments: Sequence[str]) -> int:
    from gpu_synth.trainers.fit import train

    train([command.__name__, *arguments], endings={command.__name__: _ending(command)})
    return Exit.DONE


def _first_line(command: Command) -> str:
    return (command.__doc__ or "").strip().splitlines()[0]


def _ending(command: Command) -> str:
    """What a subcommand's help ends with."""
    example = (inspect.getdoc(command) or "").partition("\n\n")[2].replace("\n", "\n  ")
    return f"example:\n  {example}\n\n--debug shows the traceback of an error; gpu-synth --help tells what exit codes mean"


def _help() -> str:
    lines = [f"  {name:19}{_first_line(command)}" for name, command in COMMANDS.items()]
    codes = [f"  {code:<5}{meaning}" for code, meaning in MEANINGS.items()]
    usage = "usage: gpu-synth <subcommand> [options] [--debug]; gpu-synth <subcommand> --help; gpu-synth --version"
    return "\n".join([usage, "", *lines, "", "exit codes:", *codes, "", "--debug, before or after the subcommand, shows tracebacks"])


if __name__ == "__main__":
    sys.exit(main())
