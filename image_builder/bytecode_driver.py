"""Compiles Python sources inside the guest's interpreter: the program that ``bytecode`` hands to it. Not
imported.

Standard input, per file, integers u32 little-endian: path length, path as it is in the image (UTF-8), source
length, source. Standard output, in the same order, per file: length of the ``.pyc`` and its bytes; length 0
for a source that this interpreter cannot compile.

Layout of a ``.pyc`` (PEP 552): the interpreter's magic number (4 bytes), u32 flags = 1 (hash-based,
unchecked), the 8-byte source hash, the marshalled code object. Only built-in and frozen modules are imported,
so that nothing but ``encodings`` is read from the standard library.
"""

import _frozen_importlib_external as bootstrap
import _imp
import marshal
import sys


def main() -> None:
    """Compile everything on standard input."""
    data = sys.stdin.buffer.read()
    at = 0
    while at < len(data):
        path, at = field(data, at)
        source, at = field(data, at)
        result = compiled(source, path.decode("utf-8"))
        sys.stdout.buffer.write(len(result).to_bytes(4, "little") + result)
    sys.stdout.buffer.flush()


def field(data: bytes, at: int) -> tuple[bytes, int]:
    """One length-prefixed field at ``at``, and where it ends."""
    size = int.from_bytes(data[at : at + 4], "little")
    return data[at + 4 : at + 4 + size], at + 4 + size


def compiled(source: bytes, path: str) -> bytes:
    """The ``.pyc`` of ``source``; empty when it does not compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return b""
    magic = bootstrap.MAGIC_NUMBER
    source_hash = _imp.source_hash(int.from_bytes(magic, "little"), source)
    return magic + (1).to_bytes(4, "little") + source_hash + marshal.dumps(code)


if __name__ == "__main__":
    main()
