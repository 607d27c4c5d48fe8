"""Options of the command line: made of a function's parameters by jsonargparse, and refused in one line."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_MANY = {int: ("whole numbers", "1,2"), float: ("numbers", "0.5,1"), str: ("names", "a,b")}
_KEY = re.compile(r'Parser key "([^"]+)":\s*(.*)', re.DOTALL)
_VALUE = re.compile(r".*(?:Got value|Given value): (.*)", re.DOTALL)
_UNKNOWN = re.compile(r"(?:Option|.* does not accept option) '([^']+)'(?: is not accepted)?")


class Help(DefaultHelpFormatter):
    """Help whose end, an example, keeps its lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(ArgumentParser):
    """A parser that says in one line what is wrong with an option, rather than how all of them are used."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse in words; where jsonargparse tries one type after another, as it does."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ValueError(in_words(getattr(ex, "subcommand_parser", None) or self, message)) from ex


def call(run: Callable[..., Any], arguments: Sequence[str], prog: str, ending: str, to_json: Callable[[Any], Any] | None = None) -> Any:
    """Make options of a function's parameters and help of its docstring; call it with what was given.

    Args:
        run: What to call.
        arguments: Options and values.
        prog: The command, for help.
        ending: What help ends with.
        to_json: What `--json` writes of the result; None: there is no such option.

    Returns:
        What the function returned.
    """
    parser = Parser(prog=prog, epilog=ending, formatter_class=Help)
    parser.add_argument("--config", action="config", help="YAML file of options and their values.")
    parser.add_function_arguments(run, as_group=False, as_positional=False, fail_untyped=True, sub_configs=True)
    parser.description = (run.__doc__ or "").strip().splitlines()[0]
    if to_json:
        parser.add_argument("--json", action="store_true", help="Write the result to stdout as JSON, all that is for people to stderr.")
    given = parser.instantiate(parser.parse_args(as_options(run, arguments)))
    given.pop("config")
    as_json = given.pop("json", False)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        result = run(**given)
    if as_json and to_json:
        print(json.dumps(to_json(result), indent=1))
    return result


def as_options(run: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Let several values be given as 1,1,1 where jsonargparse asks for [1,1,1], and a switch without its "true"."""
    hints = {f"--{name}": hint for name, hint in get_type_hints(run).items()}
    several = [option for option, hint in hints.items() if any(get_origin(part) in (tuple, list) for part in (hint, *get_args(hint)))]
    out = list(arguments)
    for n, argument in enumerate(out):
        option, equals, value = argument.partition("=")
        last = n + 1 == len(out)
        if hints.get(argument) is bool and (last or out[n + 1].startswith("--")):
            out[n] = f"{argument}=true"
        if option not in several or (not equals and (last or out[n + 1].startswith("--"))):
            continue
        at, value = (n, value) if equals else (n + 1, out[n + 1])
        if value[:1] not in ("[", "("):
            out[at] = f"{option}=[{value}]" if equals else f"[{value}]"
    return out


def in_words(parser: ArgumentParser, message: str) -> str:
    """Say what a parser refused: which option, what it must be, what it was, and what was likely meant.

    Args:
        parser: Whose options they are.
        message: What jsonargparse says.
    """
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    if message.startswith("unrecognized arguments: "):
        first = message.removeprefix("unrecognized arguments: ").split(" ")[0].partition("=")[0]
        if not first.startswith("-"):
            return f"options must begin with --, got {first!r}; {_listing(parser)}"
        return f"option must be one of {_name(parser)}, got {first!r}; {_nearest(first, flags) or _listing(parser)}"
    if unknown := _UNKNOWN.fullmatch(message):
        names = [flag.removeprefix("--") for flag in flags]
        mend = _nearest(unknown[1], names) or _listing(parser)
        return f"configuration must hold options of {_name(parser)}, got {unknown[1]!r}; {mend}"
    if message.startswith("the following arguments are required: "):
        names = [f"--{name.strip()}" for name in message.partition(": ")[2].split(",")]
        return f"{', '.join(names)} must be given; {_listing(parser)}"
    if lacking := re.fullmatch(r"argument (\S+): expected (?:one|at least one) argument", message):
        return f"{lacking[1]} must have a value, got none"
    if message.startswith("Problems parsing config: "):
        return f"configuration must be YAML, got what is none: {_one_line(message.partition(': ')[2])}"
    if message.startswith("Unexpected config: "):
        return f"configuration must hold options and their values, got {_one_line(message.partition(': ')[2])}"
    if keyed := _KEY.match(message):
        return _of_key(parser, keyed[1], keyed[2])
    return _one_line(message)


def _of_key(parser: ArgumentParser, key: str, message: str) -> str:
    """Say what the value of an option must be."""
    value = _VALUE.match(message)
    hint = next((getattr(action, "_typehint", action.type) for action in parser._actions if action.dest == key), None)
    if key == "config" or value is None or hint is None:
        return f"{key} cannot be used: {_one_line(message)}"
    given = value[1].strip()
    choices = [str(choice) for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    close = _nearest(given, choices)
    return f"{key} must be {requirement(hint)}, got {given}{f'; {close}' if close else ''}"


def requirement(hint: Any) -> str:
    """What a value of a type must be, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        words = dict.fromkeys(requirement(part) for part in parts)
        return (", or " if any("," in word for word in words) else " or ").join(words)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is dict or hint is dict:
        return "a mapping, such as '{name: value}'"
    if isinstance(origin, type) and issubclass(origin, Sequence) and parts:
        what, example = _MANY.get(parts[0], ("values", "a,b"))
        count = len(parts) if origin is tuple and parts[-1] is not ... else None
        example = ",".join(map(str, range(1, count + 1))) if count else example
        return f"{f'{count} ' if count else ''}{what}, such as '[{example}]'"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', str(hint))}")


def _nearest(given: str, known: Sequence[str]) -> str:
    close = get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _name(parser: ArgumentParser) -> str:
    return str(parser.prog).replace(" [options]", "")


def _listing(parser: ArgumentParser) -> str:
    return f"{_name(parser)} --help lists them"


def _one_line(text: str) -> str:
    return " ".join(text.split())
