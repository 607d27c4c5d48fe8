"""Makes the environment of the nnU-Net tests, apart from that of all others, whose packages it sees: python tests/nnunet_env.py.

nnU-Net brings torchvision from the index, which beside a CPU-only torch ends the import of whatever tries it: Lightning's torchmetrics,
for one. Here a shim lets it be imported.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.prefix) / "nnunet"
PYTHON = FOLDER / "bin" / "python"
SHIM = "torchvision_shim"


def make() -> None:
    """Make it anew, beside the packages of the environment that runs this."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = FOLDER / "lib" / version / "site-packages"
    outer = Path(sys.prefix) / "lib" / version / "site-packages"
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({str(outer)!r})\n")
    install = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*install, "--no-build-isolation", "--editable", f"{ROOT}[nnunet]"], check=True)
    shutil.copy(Path(__file__).with_name(f"{SHIM}.py"), packages)
    (packages / f"{SHIM}.pth").write_text(f"import {SHIM}\n")


if __name__ == "__main__":
    make()
