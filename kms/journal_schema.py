"""The tables of the journal; see ``kms.journal`` for what they mean."""

from __future__ import annotations

FORMAT = 1

_TABLES = (
    (
        "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL,"
        " kms_id BLOB NOT NULL, block_number INTEGER, block_hash BLOB, block_time INTEGER) STRICT"
    ),
    (
        "CREATE TABLE receipts (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, payload BLOB NOT NULL,"
        " signature BLOB NOT NULL, nonce BLOB UNIQUE) STRICT"
    ),
    (
        "CREATE TABLE instances (app_id BLOB NOT NULL, instance_id BLOB NOT NULL, epoch INTEGER NOT NULL,"
        " confirmed_seq INTEGER NOT NULL, PRIMARY KEY (app_id, instance_id)) STRICT"
    ),
    (
        "CREATE TABLE batches (from_seq INTEGER PRIMARY KEY, to_seq INTEGER NOT NULL UNIQUE,"
        " root BLOB NOT NULL, signature BLOB NOT NULL) STRICT"
    ),
)
_APPEND_ONLY = tuple(
    f"CREATE TRIGGER {table}_{action.lower()} BEFORE {action} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
    for table in ("receipts", "instances", "batches")
    for action in ("UPDATE", "DELETE")
)
_BLOCKS_GO_UP = (
    (
        "CREATE TRIGGER meta_block BEFORE UPDATE ON meta WHEN OLD.block_number IS NOT NULL AND"
        " (NEW.block_number IS NULL OR NEW.block_number <= OLD.block_number)"
        " BEGIN SELECT RAISE(ABORT, 'the highest block only goes up'); END"
    ),
    (
        "CREATE TRIGGER meta_delete BEFORE DELETE ON meta"
        " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
    ),
)
SCHEMA = (*_TABLES, *_APPEND_ONLY, *_BLOCKS_GO_UP)
"""The statements that make an empty journal."""
