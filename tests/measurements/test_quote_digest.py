"""The quote parser against quotes that tpm2-tools makes on a software TPM, and against bad bytes."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.events import Bank
from measurements.quote_digest import parse_quote
from tests.support.tools import require_tool


def free_ports() -> int:
    """A port whose successor is free, too (swtpm's control channel)."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    pytest.skip("no two neighbouring ports are free")


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment in which tpm2-tools talk to a fresh software TPM."""
    swtpm = require_tool("swtpm", package="swtpm")
    require_tool("tpm2_quote", package="tpm2-tools")
    port = free_ports()
    state = tmp_path / "state"
    state.mkdir()
    command = [swtpm, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "startup-clear"]
    command += ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            time.sleep(0.5)
            yield {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:port={port}", "HOME": str(tmp_path)}
        finally:
            server.terminate()


@pytest.mark.apt
def test_a_quote_of_tpm2_tools_matches_the_registers(tpm: dict[str, str], tmp_path: Path) -> None:
    def run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, env=tpm, cwd=tmp_path)

    extended = hashlib.sha256(b"x").hexdigest(), hashlib.sha384(b"x").hexdigest()
    run("tpm2_pcrextend", f"4:sha256={extended[0]},sha384={extended[1]}")
    run("tpm2_createek", "-c", "ek.ctx", "-G", "ecc")
    run("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa")
    run("tpm2_flushcontext", "-t")
    selection = "sha256:0,4,7+sha384:4,11"
    run("tpm2_quote", "-c", "ak.ctx", "-l", selection, "-q", "abcd", "-m", "message", "-s", "signature")
    quote = parse_quote((tmp_path / "message").read_bytes())
    assert quote.selection == ((Bank.SHA256, (0, 4, 7)), (Bank.SHA384, (4, 11)))
    registers = {
        Bank.SHA256: {4: hashlib.sha256(bytes(32) + bytes.fromhex(extended[0])).digest()},
        Bank.SHA384: {4: hashlib.sha384(bytes(48) + bytes.fromhex(extended[1])).digest()},
    }
    assert quote.matches(registers)
    registers[Bank.SHA384][11] = b"\1" * 48
    assert not quote.matches(registers)


def quote_bytes(*, bank: int = 0x0B, count: int = 1, digest: bytes = bytes(32), tail: bytes = b"") -> bytes:
    head = struct.pack(">IH", 0xFF544347, 0x8018) + b"\0\2ab" + b"\0\0" + bytes(25)
    selection = struct.pack(">I", count) + struct.pack(">HB", bank, 3) + bytes([0x01, 0x80, 0])
    return head + selection + struct.pack(">H", len(digest)) + digest + tail


def test_the_bitmap_counts_from_the_lowest_bit() -> None:
    assert parse_quote(quote_bytes()).selection == ((Bank.SHA256, (0, 15)),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xffTCG\x80\x17" + bytes(60),
        quote_bytes()[:-1],
        quote_bytes(tail=b"x"),
        quote_bytes(count=2),
        quote_bytes(count=0xFFFFFFFF),
        quote_bytes(bank=0x04),
    ],
)
def test_bytes_that_are_no_quote_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_quote(data)


@given(st.binary(max_size=150))
def test_arbitrary_bytes_after_the_magic_raise_format_errors_only(data: bytes) -> None:
    try:
        quote = parse_quote(b"\xffTCG\x80\x18" + data)
    except FormatError:
        return
    assert len(quote.selection) <= 8
