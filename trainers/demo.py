"""`gpu-synth demo`: phantom CTs, a short training on synthetic tumours alone, a table and pictures."""

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gpu_synth.files import check_folder_to_write
from gpu_synth.phantom import phantom
from gpu_synth.prepare.run import prepare
from gpu_synth.preview.slices import save_png, slices_figure
from gpu_synth.trainers.augment import window
from gpu_synth.trainers.data import SynthesisDataModule
from gpu_synth.trainers.fit import train
from gpu_synth.trainers.module import SegmentationModule
from gpu_synth.trainers.monitor import SynthesisMonitor
from gpu_synth.volumes import save_nifti

CASES = 12
SHAPE_VOX = (96, 80, 60)
SPACING_MM = (4.0, 4.0, 4.0)


def demo(out: str | Path = "demo-output") -> int:
    """Show the whole way from healthy CT to a network that finds tumours, with no data at hand.

    Args:
        out: Folder to write scans, logs, table and pictures to.
    """
    out, console, begin = check_folder_to_write("out", out), Console(), time.perf_counter()
    console.print(f"[bold]1/3[/bold] {CASES} phantom CTs, healthy, to {out / 'scans'}")
    write_phantoms(out / "scans")
    prepare(images=out / "scans" / "ct", labels=out / "scans" / "liver", out=out / "cache", spacing_mm=SPACING_MM)

    console.print("[bold]2/3[/bold] Swin UNETR, trained on synthetic tumours only")
    cli = train(["--config", "demo.yaml", f"--data.data_dir={out / 'cache'}", f"--trainer.default_root_dir={out / 'runs'}"], run=False)
    trainer, module, data = cli.trainer, cli.model, cli.datamodule
    assert isinstance(module, SegmentationModule)
    assert isinstance(data, SynthesisDataModule)
    before = trainer.validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    after = trainer.validate(module, data, verbose=False)[0]

    console.print("[bold]3/3[/bold] what came of it")
    pictures = [*sorted((Path(str(trainer.log_dir)) / "synthesised").glob("*.png")), *write_predictions(module, data, out)]
    monitor = next(callback for callback in trainer.callbacks if isinstance(callback, SynthesisMonitor))  # type: ignore[attr-defined]
    table = Table("", "before training", "after")
    for name, key in (("tumour DSC, held-out scans", "val/dsc_tumor"), ("liver DSC, held-out scans", "val/dsc_organ")):
        table.add_row(name, f"{before[key]:.3f}", f"{after[key]:.3f}")
    table.add_section()
    table.add_row("lesions synthesised", "", f"{monitor.lesions}")
    table.add_row("share of step time in synthesis", "", f"{100 * monitor.share:.1f} %")
    table.add_row("whole demo", "", f"{time.perf_counter() - begin:.0f} s")
    console.print(table)
    for picture in pictures:
        console.print(f"wrote {picture}")
    return 0


def write_phantoms(folder: Path) -> None:
    """Write healthy phantom CTs and their livers as NIfTI, as a user's own would lie on disk."""
    affine = np.diag([*SPACING_MM, 1.0])
    for name in ("ct", "liver"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for uid in range(CASES):
        scan = phantom(uid, SHAPE_VOX, SPACING_MM)
        save_nifti(folder / "ct" / f"phantom{uid:02d}.nii.gz", scan.image[0, 0].round().to(torch.int16).numpy(), affine)
        save_nifti(folder / "liver" / f"phantom{uid:02d}.nii.gz", scan.label[0, 0].numpy(), affine)


@torch.no_grad()
def write_predictions(module: SegmentationModule, data: SynthesisDataModule, folder: Path) -> list[Path]:
    """Draw each held-out scan with its synthetic tumours, and with those that the network found."""
    module.eval()
    written = []
    for case, batch in zip(data.held_out, data.val_dataloader(), strict=True):
        healthy = window(batch["image"].to(torch.float32), data.window_hu)
        batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        predicted = module.to(batch["image"].device).segment(batch["image"], case.spacing_mm)
        before, after, label, found = (x[0, 0].cpu() for x in (healthy, batch["image"], batch["label"], predicted))
        title = f"held out: {case.name}"
        figure = slices_figure(before, after, label, case.spacing_mm, predicted=found, window_hu=(0.0, 1.0), title=title)
        written.append(folder / f"found-{case.name}.png")
        save_png(figure, written[-1])
    return written
