"""The journal: every receipt of a KMS, hash-chained, in one SQLite file.

Tables (all integers 64-bit, hashes 32 bytes)::

    meta      format, kms_id, and the highest finalized block seen (number, hash, time): one row
    receipts  seq (from 1 without gaps), hash = H(payload), payload, signature (Ed25519, 64 bytes),
              nonce (of an issue only, unique: a challenge is used once)
    instances app_id, instance_id, epoch, confirmed_seq: instances whose disk is formatted
    batches   from_seq, to_seq, root, signature (65 bytes): without gaps from receipt 1

Triggers keep rows from being changed or deleted. Opening reads the whole chain: sequence, hashes, what the
other tables derive from the receipts, and the signature of the last receipt, which covers all before it. A
journal that fails is refused, never repaired. Write-ahead logging with synchronous FULL: what ``append``
returned is on disk; a crash before that leaves nothing. The file is locked exclusively, so no second KMS can
fork the chain.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kms.anchors import Anchor, SignedAnchor, sign_batch
from kms.journal_schema import FORMAT, SCHEMA
from kms.receipt import (
    NO_PREVIOUS,
    RECEIPT_PAYLOAD_TYPE,
    Decision,
    Envelope,
    Outcome,
    Receipt,
    ReceiptError,
    Subject,
    parse_receipt,
    receipt_hash,
    receipt_payload,
    sign_envelope,
    verify_receipt,
)
from kms.refusal import RefusalCode, RefusalError
from kms.root_key import RootKey
from kms.strict_json import FieldError
from measurements.errors import KeyturnError

MOST_RECEIPTS_IN_A_BATCH = 4096


class JournalError(KeyturnError):
    """A journal that is damaged, of another KMS, or in use."""

    code = "journal"


class NonceUsedError(RefusalError):
    """A second issue under the nonce of one challenge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A finalized block."""

    number: int
    hash: bytes
    time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A receipt at its place in the journal."""

    receipt: Receipt
    envelope: Envelope
    hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmedInstance:
    """An instance whose disk is formatted: under which key epoch, and which receipt confirmed it."""

    epoch: int
    seq: int


class Journal:
    """One open journal. Safe to use from several threads."""

    def __init__(self, path: Path, root: RootKey) -> None:
        """Open or create the journal at ``path``. Raises ``JournalError``."""
        self._root = root
        self._lock = threading.RLock()
        self._database = _open(path)
        try:
            self._initialise()
            self._head = self._check()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out between a look at the journal and the append that depends on it."""
        with self._lock:
            yield

    def append(self, subject: Subject, outcome: Outcome, *, time: int) -> Recorded:
        """Sign and store one decision. Raises ``NonceUsedError`` for a second issue under one nonce."""
        with self._lock:
            seq, previous = self._head
            receipt = Receipt(
                kms_id=self._root.identity.kms_id,
                seq=seq + 1,
                prev_hash=previous,
                time=time,
                development=self._root.development,
                subject=subject,
                outcome=outcome,
            )
            recorded = self._signed(receipt)
            try:
                with self._transaction():
                    self._insert(recorded)
            except sqlite3.IntegrityError as error:
                raise NonceUsedError(
                    RefusalCode.CHALLENGE_REPLAYED,
                    "keys were already issued for this challenge",
                    subject="challenge",
                    advice="ask for a new challenge and take new evidence for it",
                ) from error
            self._head = (receipt.seq, recorded.hash)
            return recorded

    def by_hash(self, wanted: bytes) -> Recorded | None:
        """The receipt with this hash."""
        return self._one("SELECT payload, signature FROM receipts WHERE hash = ?", wanted)

    def by_seq(self, seq: int) -> Recorded | None:
        """The receipt at this place."""
        return self._one("SELECT payload, signature FROM receipts WHERE seq = ?", seq)

    def nonce_used(self, nonce: bytes) -> bool:
        """Whether keys were issued under ``nonce``."""
        with self._lock:
            found = self._database.execute("SELECT 1 FROM receipts WHERE nonce = ?", (nonce,)).fetchone()
        return found is not None

    def confirmed(self, app_id: bytes, instance_id: bytes) -> ConfirmedInstance | None:
        """The confirmation of an instance."""
        query = "SELECT epoch, confirmed_seq FROM instances WHERE app_id = ? AND instance_id = ?"
        with self._lock:
            row = self._database.execute(query, (app_id, instance_id)).fetchone()
        return None if row is None else ConfirmedInstance(epoch=row[0], seq=row[1])

    def confirm(self, issued: Recorded, *, time: int) -> Recorded:
        """Record that the disk of ``issued`` is formatted; the same answer when it already is."""
        subject = issued.receipt.subject
        with self._lock:
            known = self.confirmed(subject.app_id, subject.instance_id)
            if known is not None:
                recorded = self.by_seq(known.seq)
                assert recorded is not None
                return recorded
            outcome = Outcome(
                decision=Decision.CONFIRM, keys=issued.receipt.outcome.keys, confirms=issued.hash
            )
            return self.append(subject, outcome, time=time)

    def highest_block(self) -> Block | None:
        """The highest finalized block that was ever accepted."""
        with self._lock:
            row = self._database.execute("SELECT block_number, block_hash, block_time FROM meta").fetchone()
        return None if row[0] is None else Block(number=row[0], hash=row[1], time=row[2])

    def saw_block(self, block: Block) -> None:
        """Remember ``block`` if it is the highest yet."""
        with self._lock, self._transaction():
            self._database.execute(
                "UPDATE meta SET block_number = ?1, block_hash = ?2, block_time = ?3"
                " WHERE block_number IS NULL OR block_number < ?1",
                (block.number, block.hash, block.time),
            )

    def close_batches(self) -> None:
        """Put every receipt that is in no batch into one."""
        with self._lock:
            while self._close_batch():
                pass

    def batches(self, *, after: int = 0) -> list[SignedAnchor]:
        """Batches with receipts above ``after``, in order."""
        query = "SELECT from_seq, to_seq, root, signature FROM batches WHERE to_seq > ? ORDER BY from_seq"
        with self._lock:
            rows = self._database.execute(query, (after,)).fetchall()
        return [self._batch(*row) for row in rows]

    def batch_of(self, seq: int) -> SignedAnchor | None:
        """The batch that receipt ``seq`` is in."""
        query = "SELECT from_seq, to_seq, root, signature FROM batches WHERE from_seq <= ?1 AND to_seq >= ?1"
        with self._lock:
            row = self._database.execute(query, (seq,)).fetchone()
        return None if row is None else self._batch(*row)

    def payloads(self, from_seq: int, to_seq: int) -> list[bytes]:
        """Payloads of the receipts ``from_seq`` to ``to_seq``, both included."""
        query = "SELECT payload FROM receipts WHERE seq BETWEEN ? AND ? ORDER BY seq"
        with self._lock:
            return [row[0] for row in self._database.execute(query, (from_seq, to_seq))]

    @property
    def length(self) -> int:
        """Number of receipts."""
        return self._head[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _initialise(self) -> None:
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0:
            with self._transaction():
                for statement in SCHEMA:
                    self._database.execute(statement)
                self._database.execute(
                    "INSERT INTO meta (id, format, kms_id) VALUES (1, ?, ?)",
                    (FORMAT, self._root.identity.kms_id),
                )

    def _check(self) -> tuple[int, bytes]:
        """Read everything; return the head."""
        try:
            return self._checked_head()
        except (sqlite3.Error, FieldError, ReceiptError) as error:
            raise _damaged(str(error)) from error

    def _checked_head(self) -> tuple[int, bytes]:
        row = self._database.execute("SELECT format, kms_id, block_number FROM meta").fetchall()
        if len(row) != 1 or row[0][0] != FORMAT:
            raise _damaged(f"it is not of format {FORMAT}")
        if row[0][1] != self._root.identity.kms_id:
            raise _damaged("it belongs to another KMS")
        seq, previous, highest, last = 0, NO_PREVIOUS, 0, None
        instances: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        for number, digest, payload, signature, nonce in self._database.execute(
            "SELECT seq, hash, payload, signature, nonce FROM receipts ORDER BY seq"
        ):
            receipt = parse_receipt(payload)
            seq += 1
            linked = number == receipt.seq == seq and receipt.prev_hash == previous
            if not linked or receipt_hash(payload) != digest or nonce != _used_nonce(receipt):
                raise _damaged(f"the chain breaks at receipt {seq}")
            instances.update(_confirmation(receipt))
            highest = max(highest, receipt.outcome.chain.block_number if receipt.outcome.chain else 0)
            previous, last = digest, self._envelope(payload, signature)
        if last is not None:
            verify_receipt(last, kms_id=self._root.identity.kms_id, ed25519=self._root.identity.ed25519)
        self._check_derived(instances, highest=highest, seen=row[0][2] or 0)
        self._check_batches(seq)
        return seq, previous

    def _check_derived(
        self, instances: dict[tuple[bytes, bytes], tuple[int, int]], *, highest: int, seen: int
    ) -> None:
        stored = {
            (app_id, instance_id): (epoch, seq)
            for app_id, instance_id, epoch, seq in self._database.execute("SELECT * FROM instances")
        }
        if stored != instances:
            raise _damaged("its instances are not those of its receipts")
        if seen < highest:
            raise _damaged("its highest block is below one that a receipt names")

    def _check_batches(self, receipts: int) -> None:
        end = 0
        for signed in self.batches():
            anchor = signed.anchor
            payloads = self.payloads(anchor.from_seq, anchor.to_seq)
            if anchor.from_seq != end + 1 or not anchor.from_seq <= anchor.to_seq <= receipts:
                raise _damaged(f"batch {anchor.from_seq} to {anchor.to_seq} is out of place")
            if sign_batch(self._root, from_seq=anchor.from_seq, payloads=payloads) != signed:
                raise _damaged(f"batch {anchor.from_seq} to {anchor.to_seq} is not over its receipts")
            end = anchor.to_seq

    def _insert(self, recorded: Recorded) -> None:
        receipt = recorded.receipt
        self._database.execute(
            "INSERT INTO receipts (seq, hash, payload, signature, nonce) VALUES (?, ?, ?, ?, ?)",
            (
                receipt.seq,
                recorded.hash,
                recorded.envelope.payload,
                recorded.envelope.signature,
                _used_nonce(receipt),
            ),
        )
        for (app_id, instance_id), (epoch, seq) in _confirmation(receipt).items():
            self._database.execute(
                "INSERT INTO instances VALUES (?, ?, ?, ?)", (app_id, instance_id, epoch, seq)
            )

    def _close_batch(self) -> bool:
        last = self._database.execute("SELECT coalesce(max(to_seq), 0) FROM batches").fetchone()[0]
        payloads = self.payloads(last + 1, last + MOST_RECEIPTS_IN_A_BATCH)
        if not payloads:
            return False
        signed = sign_batch(self._root, from_seq=last + 1, payloads=payloads)
        anchor = signed.anchor
        with self._transaction():
            self._database.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?)",
                (anchor.from_seq, anchor.to_seq, anchor.root, signed.signature),
            )
        return True

    def _batch(self, from_seq: int, to_seq: int, root: bytes, signature: bytes) -> SignedAnchor:
        anchor = Anchor(kms_id=self._root.identity.kms_id, from_seq=from_seq, to_seq=to_seq, root=root)
        return SignedAnchor(anchor=anchor, signature=signature)

    def _one(self, query: str, value: bytes | int) -> Recorded | None:
        with self._lock:
            row = self._database.execute(query, (value,)).fetchone()
        if row is None:
            return None
        payload, signature = row
        return Recorded(
            receipt=parse_receipt(payload),
            envelope=self._envelope(payload, signature),
            hash=receipt_hash(payload),
        )

    def _signed(self, receipt: Receipt) -> Recorded:
        payload = receipt_payload(receipt)
        envelope = sign_envelope(
            payload,
            payload_type=RECEIPT_PAYLOAD_TYPE,
            key_id=self._root.identity.kms_id,
            key=self._root.receipt_key,
        )
        return Recorded(receipt=receipt, envelope=envelope, hash=receipt_hash(payload))

    def _envelope(self, payload: bytes, signature: bytes) -> Envelope:
        return Envelope(
            payload_type=RECEIPT_PAYLOAD_TYPE,
            payload=payload,
            key_id=self._root.identity.kms_id,
            signature=signature,
        )


def _used_nonce(receipt: Receipt) -> bytes | None:
    return receipt.subject.nonce if receipt.outcome.decision is Decision.ISSUE else None


def _confirmation(receipt: Receipt) -> dict[tuple[bytes, bytes], tuple[int, int]]:
    """The row of ``instances`` that a receipt stands for, if it is a confirmation."""
    if receipt.outcome.decision is not Decision.CONFIRM:
        return {}
    epoch = max((key.epoch for key in receipt.outcome.keys), default=0)
    return {(receipt.subject.app_id, receipt.subject.instance_id): (epoch, receipt.seq)}


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        database.close()
        raise JournalError(
            f"it cannot be opened alone: {error}",
            subject=f"journal {path.name}",
            advice="stop the other KMS that uses it: a journal belongs to one process",
        ) from error
    except sqlite3.DatabaseError as error:
        database.close()
        raise _damaged(str(error)) from error
    return database


def _damaged(reason: str) -> JournalError:
    return JournalError(
        reason,
        subject="journal",
        advice="restore the journal of this KMS from its disk; it is never repaired or started anew silently",
    )
