"""Deferred modules: not loaded by the import of the TPM bindings, loaded by the first call of a function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OPEN = "import sys; from guest_agent.deferred_modules import TLS, DeferredModule, defer; "
KEY = "000100040000000000000010" + "0010" + "0800" + "00000000" + "0000"
"""TPMT_PUBLIC: an RSA key with name algorithm SHA-1."""


def run(script: str) -> str:
    command = [sys.executable, "-B", "-c", OPEN + script]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_what_the_agent_does_not_use_stays_unloaded() -> None:
    shown = "print(sorted({'cryptography.x509', 'tempfile'} & set(sys.modules)))"
    assert run(f"defer(); import tpm2_pytss; {shown}") == "[]"
    assert "cryptography.x509" in run(f"import tpm2_pytss; {shown}")


def test_a_call_loads_the_real_module() -> None:
    name = (
        "from tpm2_pytss import TPMT_PUBLIC; "
        f"print(bytes(TPMT_PUBLIC.unmarshal(bytes.fromhex('{KEY}'))[0].get_name()).hex()); "
        "print(isinstance(sys.modules['tpm2_pytss.internal.crypto'], DeferredModule))"
    )
    expected = run(name)
    assert run(f"defer(); {name}") == expected
    assert expected.startswith("0004")
    assert expected.endswith("False")


def test_a_module_that_is_loaded_is_left_alone() -> None:
    assert (
        run("import json; defer(('json',)); print(json.dumps([]), sys.modules['json'] is json)") == "[] True"
    )


def test_a_module_that_is_not_there_is_missed_by_the_first_call() -> None:
    script = "defer(('absent_module',)); from absent_module import function; print(callable(function))"
    assert run(script) == "True"
    with pytest.raises(subprocess.CalledProcessError):
        run(script + "; function()")


def test_plain_http_loads_no_tls_and_https_does() -> None:
    script = (
        "defer(TLS); import http.client; print('_ssl' in sys.modules, end=' '); "
        "http.client.HTTPConnection('127.0.0.1', 1); print('_ssl' in sys.modules, end=' '); "
        "made = http.client.HTTPSConnection('127.0.0.1', 1); "
        "print('_ssl' in sys.modules, type(made._context).__name__, made._context.check_hostname)"
    )
    assert run(script) == "False False True SSLContext True"
