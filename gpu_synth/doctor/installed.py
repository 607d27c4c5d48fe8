"""What is installed, beside what the project's own metadata asks for. Needs nothing but the standard library to say so."""

import re
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from typing import NamedTuple

DISTRIBUTION = "gpu-synth"
# What a package is imported as, where that is another name.
_MODULES = {"PyYAML": "yaml", "pillow": "PIL", "typing-extensions": "typing_extensions"}
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_FOR_DEVELOPERS = ("dev",)
_OF_CUDA = re.compile(r"cuda\d+")  # extras of which a machine wants one, or none


class Package(NamedTuple):
    """A package that is asked for.

    Attributes:
        name: Its name.
        wanted: The requirement, as pip takes it.
        version: The installed one; empty where there is none.
        extra: The extra that it belongs to; empty for what everything needs.
        problem: Why it cannot be used; empty where it can, or is optional and not there.
    """

    name: str
    wanted: str
    version: str
    extra: str = ""
    problem: str = ""


def packages() -> list[Package]:
    """All that the project needs, each imported once to see that it can be; then what its extras ask for, which is not imported.

    Raises:
        PackageNotFoundError: The project runs without having been installed, so that nobody knows what it asks for.
    """
    needed, optional = [], []
    for line in requires(DISTRIBUTION) or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = _EXTRA.search(marker)
        if extra is None:
            needed.append(_needed(requirement))
        elif extra[1] not in _FOR_DEVELOPERS and not _OF_CUDA.fullmatch(extra[1]):
            name = _name(requirement)
            optional.append(Package(name, requirement, _version(name), extra[1]))
    return needed + optional


def cupy_packages() -> list[str]:
    """Names of all installed packages that are a CuPy: more than one overwrite each other's files."""
    names = {str(found.metadata["Name"] or "").lower() for found in distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name))


def _needed(requirement: str) -> Package:
    name = _name(requirement)
    found = _version(name)
    return Package(name, requirement, found, problem=_problem(name, requirement, found))


def _problem(name: str, requirement: str, found: str) -> str:
    if not found:
        return "is not installed"
    if not _satisfies(requirement, found):
        return f"is version {found}, asked for is {requirement}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(_MODULES.get(name, name))
    except Exception as error:  # a broken library raises what it likes
        return f"cannot be imported ({' '.join(f'{type(error).__name__}: {error}'.split())})"
    return ""


def _satisfies(requirement: str, found: str) -> bool:
    """Whether a version is one that is asked for; where the package that knows is missing, it is taken to be."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(found, prereleases=True)


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0] if found else requirement


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
