"""Every comparison of a kernel with its twin once more, watched by the address and undefined-behaviour sanitizers."""

from pathlib import Path

from emulator import run_sanitized


def test_kernels_neither_leave_their_memory_nor_do_what_is_undefined():
    folder = Path(__file__).parent
    others = [f"--ignore={folder / f'test_{name}.py'}" for name in ("families", "emulator", "compile", "races")]
    done = run_sanitized("-m", "pytest", folder, "-q", "-p", "no:cacheprovider", "-k", "forward", *others)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
