"""Leaves parts of libraries unloaded that the agent does not use, but whose names other modules import.

``tpm2_pytss`` imports helpers for keys in files, which import certificates and SSH keys of ``cryptography``,
and its bindings of FAPI and of policy files. Under emulation that takes over a second of every boot, and no
call of the agent gets there. In their place stand modules whose every name is a function that loads the real
module when it is called, and then calls the real function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

UNUSED = (
    "cryptography.hazmat.primitives.serialization.ssh",
    "tpm2_pytss.FAPI",
    "tpm2_pytss.internal.crypto",
    "tpm2_pytss.policy",
)

TLS = ("ssl",)
"""What ``http.client`` imports also for plain HTTP. Only a process that talks HTTP and nothing else may defer
it: others use its classes and constants.
"""


class DeferredModule(ModuleType):
    """Stands in ``sys.modules`` for a module that is not loaded."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            return getattr(_load(self.__name__), name)(*arguments, **named)

        return call


def defer(names: tuple[str, ...] = UNUSED) -> None:
    """Defer those modules that are not loaded yet."""
    for name in names:
        sys.modules.setdefault(name, DeferredModule(name))


def _load(name: str) -> ModuleType:
    if isinstance(sys.modules.get(name), DeferredModule):
        del sys.modules[name]
    return import_module(name)
