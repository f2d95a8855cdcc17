"""Kinds of values of a policy, each read from TOML and from canonical JSON, and written as JSON.

========================  ==================================  ==================================
value                     TOML                                canonical JSON
========================  ==================================  ==================================
yes or no, number, text   the same                            the same
moment                    date, or datetime in UTC            seconds since 1970
duration                  ``"30 days"``                       seconds
list                      array, each value once              array, sorted
list that may be any      array, or ``"any"``                 array, sorted, or ``"any"``
bytes                     lower-case hexadecimal digits       the same
========================  ==================================  ==================================

Keys are written with ``-`` in TOML and with ``_`` in JSON. What is wrong raises ``WrongValueError``, which
knows the path of keys that leads to it.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, NoReturn

from attestation.policy import Allowed, PolicyError
from measurements.canonical import Json

ANY = "any"
MAX_ITEMS = 4096
"""Entries of one list."""
LAST_MOMENT = 253_402_300_799
"""The end of the year 9999."""

_DURATION = re.compile(r"([1-9][0-9]{0,8}) (second|minute|hour|day)s?")
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_DEBUG = "debug"


class WrongValueError(Exception):
    """A value that is not of its kind: ``path`` leads to it, ``advice`` says what to write instead."""

    def __init__(self, reason: str, advice: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.advice, self.path = reason, advice, path

    def below(self, *keys: str) -> WrongValueError:
        """The same, seen from further up."""
        return WrongValueError(self.reason, self.advice, (*keys, *self.path))

    def policy_error(self, subject: str) -> PolicyError:
        """The error for people; ``subject`` is the file."""
        path = ".".join(key if len(key) <= 64 else f"{key[:63]}…" for key in self.path)
        return PolicyError(self.reason, subject=f"{subject}, {path}" if path else subject, advice=self.advice)


def wrong(reason: str, advice: str) -> NoReturn:
    """Refuse a value."""
    raise WrongValueError(reason, advice)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The form that is read. ``read_file`` gives files that a TOML policy names, relative to it."""

    toml: bool
    read_file: Callable[[str], bytes] | None = None

    def key(self, name: str) -> str:
        """How the field ``name`` is written."""
        return name.replace("_", "-") if self.toml else name


class Kind(ABC):
    """One kind of values."""

    @abstractmethod
    def read(self, value: object, form: Form) -> Any:
        """The value of the model; raises ``WrongValueError``."""

    @abstractmethod
    def write(self, value: Any) -> Json:
        """The value in canonical JSON."""


class Flag(Kind):
    """``true`` or ``false``."""

    def read(self, value: object, form: Form) -> bool:
        if not isinstance(value, bool):
            wrong(f"{shown(value)} is neither true nor false", "write true or false")
        return value

    def write(self, value: Any) -> Json:
        return bool(value)


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A whole number in a range, both ends included."""

    low: int
    high: int

    def read(self, value: object, form: Form) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            wrong(
                f"{shown(value)} is no whole number from {self.low} to {self.high}",
                f"write a number from {self.low} to {self.high}",
            )
        return value

    def write(self, value: Any) -> Json:
        return int(value)


class Duration(Kind):
    """A length of time, at least one second."""

    def read(self, value: object, form: Form) -> int:
        if not form.toml:
            return Number(1, LAST_MOMENT).read(value, form)
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 0 < seconds <= LAST_MOMENT:
            wrong(
                f"{shown(value)} is no duration", 'write a number and its unit, as in "30 days", "5 minutes"'
            )
        return seconds

    def write(self, value: Any) -> Json:
        return int(value)


@dataclass(frozen=True, slots=True)
class Moment(Kind):
    """A point in time. A date alone is the first second of that day in UTC, or with ``last`` its last one."""

    last: bool

    def read(self, value: object, form: Form) -> int:
        if not form.toml:
            return Number(0, LAST_MOMENT).read(value, form)
        if isinstance(value, datetime):
            if value.utcoffset() != timedelta(0) or value.microsecond:
                wrong(
                    f"{value.isoformat()} is not in UTC and whole seconds", "write it as 2026-12-31T23:59:59Z"
                )
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time(23, 59, 59) if self.last else time(), UTC)
        else:
            wrong(f"{shown(value)} is no date", "write a date without quotes, as in 2026-12-31")
        seconds = int(moment.timestamp())
        if seconds < 0:
            wrong(f"{value} is before 1970", "write a later date")
        return seconds

    def write(self, value: Any) -> Json:
        return int(value)


class Day(Kind):
    """A date that is only shown: a TOML date, in JSON ``YYYY-MM-DD``."""

    def read(self, value: object, form: Form) -> str:
        if form.toml and isinstance(value, date) and not isinstance(value, datetime):
            return value.isoformat()
        try:
            if not form.toml and isinstance(value, str) and date.fromisoformat(value).isoformat() == value:
                return value
        except ValueError:
            pass
        wrong(f"{shown(value)} is no date", "write a date without quotes, as in 2026-12-31")

    def write(self, value: Any) -> Json:
        return str(value)


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A text that ``pattern`` matches as a whole; ``what`` says what it is."""

    pattern: re.Pattern[str]
    what: str

    def read(self, value: object, form: Form) -> str:
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            wrong(f"{shown(value)} is not {self.what}", f"write {self.what}")
        return value

    def write(self, value: Any) -> Json:
        return str(value)


# No controls, line separators, lone surrogates, or marks that turn the direction of what follows.
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
NAME = Text(re.compile(rf"[^\s{_UNSEEN}](?:[^{_UNSEEN}]{{0,126}}[^\s{_UNSEEN}])?"), "a name in one line")
LINE = Text(re.compile(rf"[^{_UNSEEN}]{{1,512}}"), "one line of text")


@dataclass(frozen=True, slots=True)
class Hex(Kind):
    """Bytes, as many as in a range, as lower-case hexadecimal digits; a text in the model."""

    low: int
    high: int

    def read(self, value: object, form: Form) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-f]{2})*", value):
            wrong(f"{shown(value)} is not in lower-case hexadecimal digits", f"write {self._size()}")
        if not self.low <= len(value) // 2 <= self.high:
            wrong(f"{shown(value)} has {len(value) // 2} bytes", f"write {self._size()}")
        return value

    def write(self, value: Any) -> Json:
        return str(value)

    def _size(self) -> str:
        size = f"{self.low} to {self.high}" if self.low != self.high else str(self.low)
        return f"{size} bytes in lower-case hexadecimal digits"


@dataclass(frozen=True, slots=True)
class Octets(Kind):
    """As ``Hex`` of one length, but bytes in the model."""

    size: int

    def read(self, value: object, form: Form) -> bytes:
        return bytes.fromhex(Hex(self.size, self.size).read(value, form))

    def write(self, value: Any) -> Json:
        return bytes(value).hex()


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """A member of an enumeration, or of some of it; ``never`` says why others are refused."""

    members: Collection[StrEnum]
    never: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: object, form: Form) -> StrEnum:
        known = {str(member): member for member in self.members}
        if isinstance(value, str) and value in known:
            return known[value]
        if isinstance(value, str) and value in self.never:
            wrong(f"{value} {self.never[value]}", "remove it")
        wrong(f"{shown(value)} is not known", f"write one of {', '.join(known)}{nearest(value, known)}")

    def write(self, value: Any) -> Json:
        return str(value)


@dataclass(frozen=True, slots=True)
class Listed(Kind):
    """A list of things of one kind, each once; a frozen set in the model. An empty list is none."""

    item: Kind

    def read(self, value: object, form: Form) -> frozenset[Any]:
        if not isinstance(value, list):
            wrong(f"{shown(value)} is not a list", "write a list; an empty one stands for none")
        if len(value) > MAX_ITEMS:
            wrong(f"it has {len(value)} entries", f"write at most {MAX_ITEMS}")
        found = [read_below(self.item, one, form, str(index)) for index, one in enumerate(value)]
        if len(set(found)) != len(found):
            wrong("it names something twice", "write each entry once")
        return frozenset(found)

    def write(self, value: Any) -> Json:
        written: list[Any] = [self.item.write(one) for one in value]
        return sorted(written)


@dataclass(frozen=True, slots=True)
class AllowedOf(Kind):
    """A list of texts of one kind, or where ``any_allowed`` openly ``"any"``. With ``both`` the list may hold
    ``"any"`` beside values, for which more is allowed than for others.
    """

    item: Kind
    any_allowed: bool = True
    both: bool = False

    def read(self, value: object, form: Form) -> Allowed:
        if value == ANY and self.any_allowed:
            return Allowed(values=frozenset(), any=True)
        if not isinstance(value, list):
            more = f' or "{ANY}"' if self.any_allowed else ""
            wrong(f"{shown(value)} is not a list{more}", f"write a list{more}; an empty list stands for none")
        rest = [one for one in value if one != ANY]
        if rest == value:
            return Allowed(values=Listed(self.item).read(value, form))
        if not self.both or not rest or len(value) - len(rest) != 1:
            wrong(f'it lists "{ANY}"', f'write "{ANY}" in the place of the list, or leave it out')
        return Allowed(values=Listed(self.item).read(rest, form), any=True)

    def write(self, value: Any) -> Json:
        values = Listed(self.item).write(value.values)
        assert isinstance(values, list)
        if value.any:
            return [ANY, *values] if values else ANY
        return values


@dataclass(frozen=True, slots=True)
class Sequence(Kind):
    """A list of tables, in the order in which they stand; a tuple in the model."""

    item: Kind

    def read(self, value: object, form: Form) -> tuple[Any, ...]:
        if not isinstance(value, list):
            wrong(f"{shown(value)} is not a list of tables", "write [[tables]], or [] for none")
        if len(value) > MAX_ITEMS:
            wrong(f"it has {len(value)} entries", f"write at most {MAX_ITEMS}")
        return tuple(read_below(self.item, one, form, str(index)) for index, one in enumerate(value))

    def write(self, value: Any) -> Json:
        return [self.item.write(one) for one in value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table(Kind):
    """A table with exactly ``keys``, of which only the ``optional`` ones may be absent; they are ``None`` or
    the default of ``model`` then. ``check`` looks at all values together.
    """

    model: Callable[..., Any]
    keys: Mapping[str, Kind]
    optional: Collection[str] = ()
    check: Callable[[Mapping[str, Any], Form], None] | None = None

    def read(self, value: object, form: Form) -> Any:
        table = self.shape(value, form)
        read = {
            name: read_below(kind, table[form.key(name)], form, form.key(name))
            for name, kind in self.keys.items()
            if form.key(name) in table
        }
        if self.check is not None:
            self.check(read, form)
        return self.model(**read)

    def shape(self, value: object, form: Form) -> Mapping[str, object]:
        """The table, whose keys are the right ones."""
        if not isinstance(value, dict):
            wrong(f"{shown(value)} is not a table", "write a table of keys and values")
        known = [form.key(name) for name in self.keys]
        for key in value:
            if key == _DEBUG:
                raise WrongValueError("debug is never allowed", "remove it: it has no key", (key,))
            if key not in known:
                raise WrongValueError(
                    "the key is not known", f"write a known key{nearest(key, known)}", (key,)
                )
        for name in self.keys:
            if name not in self.optional and form.key(name) not in value:
                raise WrongValueError(
                    "the key is missing", "write it: no key has a hidden default", (form.key(name),)
                )
        return value

    def write(self, value: Any) -> Json:
        return {
            name: kind.write(getattr(value, name))
            for name, kind in self.keys.items()
            if name not in self.optional or getattr(value, name) not in (None, ())
        }


def read_below(kind: Kind, value: object, form: Form, *path: str) -> Any:
    """What ``kind`` reads at ``path``."""
    try:
        return kind.read(value, form)
    except WrongValueError as error:
        raise error.below(*path) from None


def nearest(value: object, known: Collection[str]) -> str:
    """``: the nearest is …`` for a word that is not known."""
    found = difflib.get_close_matches(str(value)[:64], list(known), n=1, cutoff=0.0)
    return f"; the nearest known is {found[0]}" if found else ""


def shown(value: object) -> str:
    """A value as an error shows it, never more than a line."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
