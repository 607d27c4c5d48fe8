"""Every comparison of a kernel with its twin once more, watched by the address and undefined-behaviour sanitizers."""

from pathlib import Path

from emulator import run_sanitized


def test_kernels_neither_leave_their_memory_nor_do_what_is_undefined():
    folder = Path(__file__).parent
    options = ("-q", "-p", "no:cacheprovider", "-k", "kernel and forward and not mutated", "--ignore", folder / "test_families.py")
    done = run_sanitized("-m", "pytest", folder, *options, "--ignore", folder / "test_emulator.py", "--ignore", folder / "test_compile.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
