"""Damage to files, drawn by hypothesis: bytes changed, cut, doubled and moved; words of text and values of JSON exchanged for hostile ones."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

from hypothesis import strategies as st

#: Where a header lies: half of all edits fall into the first bytes of a file.
HEADER_BYTES = 400
#: Numbers at which programs break.
NUMBERS = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1, -(2**63))
#: Words at which readers of text break.
WORDS = (
    "", "0", "-1", "nan", "NaN", "inf", "-inf", "1e308", "1e-308", "99999999999999999999", "0x10", "true", "null", "none", "\x00", "\t", '"', "'",
    ";",     ",",     "\\", "..", "../../etc/passwd", "/dev/zero", "~", "$HOME", "%s%n", "{}",
    "[]", "[" * 2000, "ä" * 300, "é\ud7ff", "\u202e", "\n", "\r\n",
    "a" * 5000,
)  # fmt: skip
#: JSON values of every kind, hostile ones among them.
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [*NUMBERS, *WORDS, None, True, False, 1.5, -0.0, 1e308, [], {}, [[]], {"a": 1}, [1, 2], ["x"], [None] * 5, float("nan"), float("inf")]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
)


def _fits(form: str, number: int) -> bool:
    top = 1 << 8 * struct.calcsize(form) - 1
    return -top <= number < top


_packed = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([struct.pack(f, n) for f in ("<h", ">h", "<i", ">i", "<q", ">q") for n in NUMBERS if _fits(f, n)]),
    st.sampled_from([struct.pack(f, x) for f in ("<f", ">f", "<d", ">d") for x in (float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30)]),
)  # fmt: skip
_edit = st.tuples(
    st.sampled_from(["set", "set", "set", "set", "insert", "delete", "cut", "double", "swap"]),
    st.booleans(),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    _packed,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with one to five edits."""
    data = bytearray(seed)
    for kind, in_header, place, other, payload in draw(st.lists(_edit, min_size=1, max_size=5)):
        if not data:
            break
        at = place % min(len(data), HEADER_BYTES if in_header else len(data))
        length = other % 64 + 1
        if kind == "set":
            data[at : at + len(payload)] = payload[: len(data) - at]
        elif kind == "insert":
            data[at:at] = payload
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "cut":
            del data[place % len(data) :]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        else:
            to = other % len(data)
            data[at], data[to] = data[to], data[at]
    return bytes(data)


@st.composite
def damaged_text(draw: st.DrawFn, seed: str) -> bytes:
    """The seed with words put in, lines taken out, doubled and swapped, in one of several encodings."""
    lines = seed.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 5))):
        if not lines:
            break
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["word", "word", "word", "cell", "cell", "drop", "double", "swap", "letters"]))
        line = lines[at]
        if kind in ("word", "letters"):
            place = draw(st.integers(0, len(line)))
            lines[at] = line[:place] + draw(st.sampled_from(WORDS) if kind == "word" else st.text(max_size=8)) + line[place:]
        elif kind == "cell":
            marks = [mark for mark in ",;: \t" if mark in line]
            mark = draw(st.sampled_from(marks or [","]))
            cells = line.rstrip("\n").split(mark)
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(WORDS))
            lines[at] = mark.join(cells) + "\n"
        elif kind == "drop":
            del lines[at]
        elif kind == "double":
            lines.insert(at, line)
        else:
            to = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[to] = lines[to], lines[at]
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]))
    return "".join(lines).encode(encoding, "replace")


@st.composite
def damaged_json(draw: st.DrawFn, seed: Any) -> str:
    """JSON with one to three of its values exchanged, taken out or put in; NaN and Infinity are written as Python writes them."""
    value = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["set", "set", "set", "drop", "add"]))
        if kind == "set":
            holder[key] = copy.deepcopy(draw(VALUES))  # a later exchange may go on inside it
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from([*WORDS[:12], "rank", "levels", "format_version"]))] = copy.deepcopy(draw(VALUES))
        else:
            holder.insert(key, copy.deepcopy(draw(VALUES)))
    return json.dumps(value)


def _places(value: Any) -> Any:
    """(holder, key) of everything inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
