"""Errors of dstack's documents, logs and inputs."""

from __future__ import annotations

from measurements.errors import FormatError, KeyturnError, RefusedError


class DstackFormatError(FormatError):
    """A dstack document that is not of its format."""

    code = "dstack-format"


class DstackInputError(KeyturnError):
    """Inputs from which a dstack value cannot be computed."""

    code = "dstack-input"


class RuntimeOrderError(RefusedError):
    """Runtime events that are not those of one boot of dstack, in their order."""

    code = "dstack-runtime-order"
