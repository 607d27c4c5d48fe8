"""What `gpu-synth prepare` says at its end: a table of all cases, what is odd, what was refused."""

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gpu_synth.manifest import Manifest


def print_summary(manifest: Manifest, kept: int) -> None:
    """Print what was prepared.

    Args:
        manifest: as saved.
        kept: how many cases an earlier run had prepared.
    """
    console, odd = Console(), dict(manifest.odd)
    table = Table(
        Column("case", overflow="fold"),
        Column("voxels", overflow="fold"),
        "organ",
        "HU",
        "noise",
        "contrast",
        Column("odd", style="yellow"),
    )
    for case in manifest.cases:
        table.add_row(
            escape(case.name),
            "×".join(map(str, case.shape)),
            f"{case.organ_ml:.0f} ml",
            f"{case.organ_mean_hu:.0f} ± {case.organ_sd_hu:.0f}",
            f"{case.noise_hu:.0f}",
            "yes" if case.contrast else "no",
            escape("; ".join(odd.get(case.name, ()))),
        )
    console.print(table)
    for case in manifest.cases:
        for note in case.warnings:
            console.print(f"{escape(case.name)}: {escape(note)}", soft_wrap=True)
    for name, why in manifest.refused:
        console.print(f"[red]refused[/red] {escape(name)}: {escape(why)}", soft_wrap=True)
    where = escape(str(manifest.root))
    console.print(
        f"{len(manifest.cases)} cases in {where} ({kept} as before), {len(odd)} odd, {len(manifest.refused)} refused; "
        f"pictures of all: {where}/sheet.png",
        soft_wrap=True,
    )
