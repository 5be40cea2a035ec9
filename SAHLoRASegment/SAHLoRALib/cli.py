"""The command ``sahlora``: finds the command's module, makes its flags, runs it, and turns every error into one line and an exit code.

Exit codes: 0 good, 1 partly (the command's help says what), 2 wrong use or nothing could be done, 3 a bug, 130 cancelled.

``--job FILE`` takes the arguments from a JSON file instead: {"command": "segment", "inputs": ["ct.nrrd"], "output": "out", "flips": true}, with the
names of the flags; events are JSON then unless the file says otherwise. Flags beside ``--job`` count before the file's. Slicer starts work so.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import io
import itertools
import json
import os
import signal
import sys
import threading
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import __version__
from .crashlog import in_words, write_crash_log
from .errors import Cancelled, ConfigError, SAHLoRAError, one_line
from .events import ConsoleEvents, Events, JsonEvents
from .startup import own_process

BUG_EXIT_CODE = 3

#: Command → its module in `commands`, and what it does in a line.
COMMANDS: dict[str, tuple[str, str]] = {
    "segment": ("segment", "segment haemorrhage on head CT: mask, volumes, report, picture"),
    "models": ("models", "list the models at hand, or describe one"),
    "cases check": ("cases_check", "read a case table's scans and masks and say all that is wrong"),
    "train": ("train", "adapt a base to your own annotated cases, with cross-validation"),
    "study": ("study", "compare fine-tuning strategies, adapters and ranks on your own cases"),
    "evaluate": ("evaluate", "compare predicted masks with annotations, by patient and volume"),
    "card": ("card", "measure a model on held-out cases and write its card"),
    "combine": ("combine", "add adapters up to a single one, each at its share"),
    "pretrain": ("pretrain", "train a base from scratch"),
    "phantom": ("phantom", "make synthetic head CT with annotated haemorrhage"),
    "demo": ("demo", "the main job in a minute, on a synthetic case"),
}


def main(argv: Sequence[str] | None = None, **collaborators: Any) -> int:
    """Run ``sahlora`` with these arguments (the process's own without them); returns the exit code and never raises.

    collaborators: handed to the command beside its arguments, such as the loader of a process that keeps its network (see `warm`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    events: Events = JsonEvents() if _asks_for_json(arguments) else ConsoleEvents()
    try:
        arguments = _with_job(arguments)
        if not isinstance(events, JsonEvents) and _asks_for_json(arguments):
            events = JsonEvents()
        return _dispatch(arguments, events, collaborators)
    except SAHLoRAError as error:
        return _fail(str(error), events, error.exit_code)
    except KeyboardInterrupt:
        return _fail("Cancelled.", events, Cancelled.exit_code)
    except BrokenPipeError:  # the reader of our output is gone: sahlora models | head -1
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__ or ""):
            return _fail(write_crash_log(error), events, BUG_EXIT_CODE)
        advice = "install SAHLoRA with its dependencies (pip install .), or in Slicer press Segment or Train, which ask before they install"
        return _fail(f"The Python package {error.name} is missing; {advice}.", events, 2)
    except Exception as error:  # the last line of defence: nobody sees a traceback
        words = in_words(error, bug=False)
        return _fail(words or write_crash_log(error), events, 2 if words else BUG_EXIT_CODE)


def program() -> int:
    """``sahlora`` as a process of its own: `main` with the process's arguments, a quick end, and memory in large pages."""
    own_process()
    return main()


def _dispatch(arguments: list[str], events: Events, collaborators: dict[str, Any]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"sahlora {__version__}")
        return 0
    name, rest = _command(arguments)
    module = importlib.import_module(f".commands.{COMMANDS[name][0]}", __package__)
    parsed = _parse(module, name, rest, events)
    if isinstance(parsed, int):
        return parsed
    told = parsed.make_events()
    try:
        with cancelled_by_signals(told):
            return int(module.run(parsed, told, **collaborators))
    except SAHLoRAError as error:
        return _fail(str(error), told, error.exit_code)


def overview() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sahlora COMMAND ...",
            "",
            "Haemorrhage segmentation on head CT. Research use only, not a medical device.",
            "",
            *lines,
            "",
            "sahlora COMMAND --help tells its flags; sahlora --version the version.",
        ]
    )


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command (of one word or two) and what follows it."""
    for words in (2, 1):
        if (name := " ".join(arguments[:words])) in COMMANDS and len(arguments) >= words:
            return name, arguments[words:]
    first = arguments[0]
    longer = [name for name in COMMANDS if name.startswith(f"{first} ")]
    near = longer or difflib.get_close_matches(first, COMMANDS, n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(COMMANDS)}."
    raise ConfigError(f"There is no command {first!r}; {hint}")


def _parse(module: ModuleType, name: str, rest: list[str], events: Events) -> Any:
    """The command's Arguments, or an exit code after --help or a wrong flag (tyro has told)."""
    import tyro

    told = io.StringIO()
    # A command whose settings are another room's says with DETAILS what they mean.
    description = "\n\n".join(inspect.cleandoc(text) for text in (module.Arguments.__doc__ or "", *getattr(module, "DETAILS", ())))
    try:
        with contextlib.redirect_stderr(told):
            # A command that takes its settings from a file too: the flags change what the file says.
            given = {"default": filled} if (filled := getattr(module, "from_file", lambda _: None)(rest)) is not None else {}
            return tyro.cli(module.Arguments, prog=f"sahlora {name}", description=description, args=rest, **given)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 2
        sys.stderr.write(told.getvalue())
        if code and isinstance(events, JsonEvents):
            words = "".join(c if c.isprintable() and not "─" <= c <= "╿" else " " for c in told.getvalue()).split()
            events.error(f"sahlora {name}: {' '.join(words)}")
        return code


def _with_job(arguments: list[str]) -> list[str]:
    """The arguments with those of the job file in the place of ``--job FILE``. Raises ConfigError."""
    places = [n for n, text in enumerate(arguments) if text == "--job" or text.startswith("--job=")]
    if not places:
        return arguments
    at = places[0]
    inline = arguments[at].partition("=")[2]
    if not inline and at + 1 >= len(arguments):
        raise ConfigError("--job needs a JSON file.")
    path = Path(inline or arguments[at + 1])
    others = arguments[:at] + arguments[at + (1 if inline else 2) :]
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The job file {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The job file {path} is not JSON: {one_line(error)}.") from error
    if not isinstance(job, dict) or not isinstance(job.get("command", ""), str):
        raise ConfigError(f'The job file {path} must hold an object such as {{"command": "segment", "inputs": ["ct.nrrd"], "output": "out"}}.')
    command = job.pop("command", "").strip()
    flags = others
    if others and not others[0].startswith("-"):
        named, flags = _command(others)
        if command and command != named:
            raise ConfigError(f"The job file {path} is for the command {command}, not for {named}.")
        command = named
    if not command:
        raise ConfigError(f"The job file {path} names no command.")
    name, _ = _command(command.split())
    return [*name.split(), *_job_arguments({"events": "json", **job}, _positionals(name)), *flags]


def _job_arguments(job: dict[str, Any], positionals: list[str]) -> list[str]:
    """JSON as flags: numbers and text as they are, true and false as --flag and --no-flag, lists as several values.

    {"adapter": {"rank": 8}} becomes --adapter.rank=8; null is left out.
    """
    flags: list[str] = []
    for key, value in job.items():
        flag = f"--{key.replace('_', '-')}"
        if key in positionals or value is None:
            continue
        if isinstance(value, bool):
            group, dot, last = flag[2:].rpartition(".")
            flags.append(flag if value else f"--{group}{dot}no-{last}")
        elif isinstance(value, list):
            flags += [flag, *(str(item) for item in value)]
        elif isinstance(value, dict):
            flags += _job_arguments({f"{key}.{inner}": item for inner, item in value.items()}, [])
        else:
            flags.append(f"{flag}={value}")
    first: list[str] = []
    for key in positionals:
        value = job.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        # A path that begins with a dash would be taken for a flag.
        first += [f".{os.sep}{item}" if str(item).startswith("-") else str(item) for item in values]
    return first + flags


def _positionals(name: str) -> list[str]:
    """The fields of a command's Arguments that are given without a flag."""
    import tyro

    module = importlib.import_module(f".commands.{COMMANDS[name][0]}", __package__)
    marker = typing.get_args(tyro.conf.Positional[int])[1]
    hints = typing.get_type_hints(module.Arguments, include_extras=True)
    return [field for field, hint in hints.items() if marker in getattr(hint, "__metadata__", ())]


def _asks_for_json(arguments: list[str]) -> bool:
    """Seen before the flags are read, so that a wrong flag is told in JSON too."""
    pairs = itertools.pairwise(arguments)
    return "--events=json" in arguments or ("--events", "json") in pairs


def _fail(message: str, events: Events, code: int) -> int:
    """One line on standard error, and an event for programs."""
    line = f"sahlora: error: {message}" if code != Cancelled.exit_code else f"sahlora: {message}"
    with contextlib.suppress(OSError, ValueError):
        if isinstance(events, ConsoleEvents):
            events.log(line)
        else:
            print(line, file=sys.stderr, flush=True)
            events.error(message)
    return code


@contextlib.contextmanager
def cancelled_by_signals(events: Events) -> Iterator[None]:
    """Ctrl-C (and a polite kill) asks the work to stop at its next step; a second one stops at once. Main thread only, else it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if events.cancel_requested:
            raise KeyboardInterrupt
        events.cancel()
        events.log("Stopping at the next step; once more stops at once.", "warning")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
