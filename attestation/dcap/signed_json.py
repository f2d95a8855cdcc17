"""JSON that Intel signs (TCB info, enclave identity), read strictly for the values that decide.

Keys occur once and values have their type and bounds. Keys beyond those that are asked for are passed over:
the text is signed, and Intel's API adds keys without a new version (``tdxModuleIdentities`` came that way).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from attestation.policy import TcbStatus
from measurements.errors import FormatError
from measurements.json_text import json_text

MAX_TEXT = 256 << 10
MAX_ENTRIES = 256
"""Of one list."""

_LEVELS = 16
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_ADVISORY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_Item = TypeVar("_Item")


class SignedJsonError(FormatError):
    """TCB info or enclave identity that is not as Intel's API gives it."""

    code = "dcap-collateral"


class SignedObject:
    """One object of the text; ``path`` says where it stands."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            refuse(path, "is not an object")
        self.path = path
        self._values: dict[str, Any] = value

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._values

    def text(self, key: str) -> str:
        """A text of up to 256 characters."""
        value = self._value(key)
        if not isinstance(value, str) or len(value) > 256:
            refuse(self._at(key), "is not a text of up to 256 characters")
        return value

    def integer(self, key: str, highest: int) -> int:
        """An integer from 0 on."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
            refuse(self._at(key), f"is not an integer from 0 to {highest}")
        return value

    def octets(self, key: str, size: int) -> bytes:
        """Bytes in hexadecimal digits of either case."""
        value = self.text(key)
        if not _HEX.fullmatch(value) or len(value) != 2 * size:
            refuse(self._at(key), f"is not {size} bytes in hexadecimal digits")
        return bytes.fromhex(value)

    def time(self, key: str) -> int:
        """A moment in seconds since 1970."""
        value = self.text(key)
        try:
            if not _TIME.fullmatch(value):
                raise ValueError
            return int(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
        except ValueError:
            refuse(self._at(key), f"is not a time in UTC: {value[:32]!r}")

    def status(self, key: str, allowed: frozenset[TcbStatus]) -> TcbStatus:
        """A status that can stand here (as Intel's QVL has it; dcap-qvl 0.7.0, ``src/verify.rs``)."""
        value = self.text(key)
        if value not in allowed:
            refuse(self._at(key), f"is {value[:64]!r}, which is no status that can stand here")
        return TcbStatus(value)

    def advisories(self) -> tuple[str, ...]:
        """``advisoryIDs``, each once; may be absent."""
        if not self.has("advisoryIDs"):
            return ()
        found = tuple(self._list("advisoryIDs"))
        if not all(isinstance(one, str) and _ADVISORY.fullmatch(one) for one in found):
            refuse(self._at("advisoryIDs"), "holds what is no name of an advisory")
        if len(set(found)) != len(found):
            refuse(self._at("advisoryIDs"), "names an advisory twice")
        return found

    def object(self, key: str) -> SignedObject:
        """An object inside of this one."""
        return SignedObject(self._value(key), self._at(key))

    def objects(self, key: str, read: Callable[[SignedObject], _Item]) -> tuple[_Item, ...]:
        """A list of objects."""
        return tuple(
            read(SignedObject(one, f"{self._at(key)}[{place}]")) for place, one in enumerate(self._list(key))
        )

    def _list(self, key: str) -> list[Any]:
        value = self._value(key)
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            refuse(self._at(key), f"is not a list of up to {MAX_ENTRIES} entries")
        return value

    def _value(self, key: str) -> Any:
        if key not in self._values:
            refuse(self.path, f"has no {key}")
        return self._values[key]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}"


def signed_object(text: str, what: str) -> SignedObject:
    """The object that ``text`` is; raises ``SignedJsonError``. The text is nothing but it: nothing before or
    after, not even white space.
    """
    if len(text) > MAX_TEXT:
        refuse(what, f"has {len(text)} characters, at most {MAX_TEXT} are read")
    if not text.startswith("{") or not text.endswith("}"):
        refuse(what, "is not one JSON object with nothing around it")
    try:
        document = json.loads(
            json_text(text.encode("utf-8"), levels=_LEVELS),
            object_pairs_hook=_each_once,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        refuse(what, f"is no JSON as Intel writes it: {error}")
    return SignedObject(document, what)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:32]} is no integer")


def refuse(subject: str, reason: str) -> NoReturn:
    """Raises ``SignedJsonError``."""
    raise SignedJsonError(reason, subject=subject, advice="fetch collateral again: keyturn collateral fetch")
