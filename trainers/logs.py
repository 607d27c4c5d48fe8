"""Logs of a run that goes on: in the files where it stopped, no step twice."""

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from gpu_synth.files import whole_file


class ContinuedCSVLogger(CSVLogger):
    """Go on in a folder's `metrics.csv`, which Lightning's would delete.

    Args:
        save_dir: Folder of the runs.
        version: Number of the run's folder.
        logged: `steps` and `validation` of the checkpoint, see `LastCheckpoint.on_save_checkpoint`: what comes later in the file will be
            logged again, and is left out.
    """

    def __init__(self, save_dir: str, version: int, logged: Mapping[str, int]) -> None:
        super().__init__(save_dir, name=None, version=version)
        self.logged = logged

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, which begins with the rows that are kept."""
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir, self.logged)
        return self._experiment


class _ContinuedWriter(ExperimentWriter):
    def __init__(self, log_dir: str, logged: Mapping[str, int]) -> None:
        self._logged = logged
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        """Where Lightning's writer deletes the file: keep what the checkpoint knows of."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_bytes().decode()
        text = text[: text.rfind("\n") + 1]  # a row that was cut short has no end
        reader = csv.DictReader(StringIO(text, newline=""))
        kept = [row for row in reader if self._keeps(row)]
        self.metrics_keys = list(reader.fieldnames or [])
        out = StringIO(newline="")
        writer = csv.DictWriter(out, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(kept)
        with whole_file(path) as stream:
            stream.write(out.getvalue().encode())

    def _keeps(self, row: Mapping[str, str]) -> bool:
        later = int(row["step"]) >= self._logged["steps"]
        again = not self._logged["validation"] and int(row["step"]) == self._logged["steps"] - 1
        return not later and not (again and any(value and name.startswith("val/") for name, value in row.items()))
