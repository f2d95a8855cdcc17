"""A policy from TOML: every key written out, dates as dates, durations with their unit, ``"any"`` in so many
words.

``docs/formats.md``, "Policy", lists the keys; ``attestation/policies`` holds templates. Nothing has a hidden
default: a key that is missing is refused like one that is unknown, and only a whole section may be absent.
An error names the file, the path of keys, the reason and the remedy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable

from attestation.policy import Policy, PolicyError
from attestation.policy_kinds import Form, WrongValueError
from attestation.policy_schema import POLICY

VERSION = 1
MAX_FILE = 48 << 10
"""Bytes. Larger sets of machines belong in files of reference values."""
MAX_DOTS = 64
"""In one line: the parser takes quadratic time for keys of many parts."""


def parse_policy(
    data: bytes, *, subject: str = "policy", read_file: Callable[[str], bytes] | None = None
) -> Policy:
    """The policy in ``data``. ``read_file`` gives the bytes of files of reference values by their path
    relative to the policy; without it they cannot be named. Raises ``PolicyError``.
    """
    document = _parse(data, subject)
    version = document.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise PolicyError(
            f"is {version!r}, and only version {VERSION} is known" if version is not None else "is missing",
            subject=f"{subject}, version",
            advice=f"write version = {VERSION}",
        )
    try:
        policy = POLICY.read(document, Form(toml=True, read_file=read_file))
    except WrongValueError as error:
        raise error.policy_error(subject) from error
    assert isinstance(policy, Policy)
    return policy


def _parse(data: bytes, subject: str) -> dict[str, object]:
    if len(data) > MAX_FILE:
        raise _no_toml(subject, f"is larger than {MAX_FILE} bytes")
    if any(line.count(b".") > MAX_DOTS for line in data.split(b"\n")):
        raise _no_toml(subject, f"has more than {MAX_DOTS} dots in a line; write long lists in several lines")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise _no_toml(subject, f"is no TOML: {error}") from error


def _no_toml(subject: str, reason: str) -> PolicyError:
    return PolicyError(
        reason, subject=subject, advice="begin with a template: keyturn policy init --platform tdx"
    )
