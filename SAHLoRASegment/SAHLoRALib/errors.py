"""What can go wrong, told to a person.

Every error that a user can cause is one of these classes. Its text is one sentence (or two) that says what is wrong, in which file or case,
and what to do about it. The command line prints it and ends with ``exit_code``; Slicer shows it in the log pane. Nobody sees a traceback.
"""

from __future__ import annotations

#: What taking apart a file of JSON that is damaged or hostile may raise: besides wrong kinds and missing entries, numbers without a bound and depth
#: without an end.
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)


class SAHLoRAError(Exception):
    """Base of all errors that are shown to a user."""

    exit_code = 2

    def __str__(self) -> str:
        """The sentence, fit to be printed: what a foreign file puts into it can neither move the cursor nor break the encoding."""
        return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in super().__str__())


def one_line(foreign: object, longest: int = 200) -> str:
    """Text from a file or a library as part of a sentence: without line breaks, and cut where it is longer than `longest` letters."""
    text = " ".join(str(foreign).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def printable(foreign: object, longest: int = 200) -> str:
    """`one_line` without what steers a terminal."""
    return one_line("".join(c if c.isprintable() else " " for c in str(foreign)), longest)


class ScanError(SAHLoRAError):
    """The input is not a head CT that can be used: unreadable, not CT, not HU, not a head, wrong dimensions."""


class ModelError(SAHLoRAError):
    """A weight file is damaged, of another format, or does not fit its base."""


class CaseError(SAHLoRAError):
    """A case table, a mask or a pairing of the two cannot be used."""


class ConfigError(SAHLoRAError):
    """A setting is out of range or contradicts another."""


class OutputError(SAHLoRAError):
    """A result cannot be written: no permission, disk full, the folder is gone."""


class Cancelled(SAHLoRAError):
    """The user asked to stop. What was finished is kept."""

    exit_code = 130
