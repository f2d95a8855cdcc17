"""The journal: what it holds survives, and every change of its file is found at the next start."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kms.anchors import anchor_signer
from kms.journal import Block, Journal, JournalError, NonceUsedError, Recorded
from kms.merkle import inclusion_proof, proof_holds
from kms.receipt import NO_PREVIOUS, Decision, Subject, verify_receipt
from kms.root_key import RootKey
from tests.kms.receipts import APP_ID, CHAIN, DEVELOPMENT_ROOT, INSTANCE_ID, ISSUE, PIN, REFUSE, ROOT, SUBJECT

TIME = 1_800_000_000
BLOCK = Block(number=CHAIN.block_number, hash=CHAIN.block_hash, time=TIME)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, ROOT)
    opened.saw_block(BLOCK)
    yield opened
    opened.close()


def subject(number: int) -> Subject:
    return dataclasses.replace(SUBJECT, nonce=number.to_bytes(32, "big"))


def fill(journal: Journal) -> list[Recorded]:
    """Issue, refusal, confirmation, issue; a batch over the first three."""
    first = journal.append(subject(1), ISSUE, time=TIME)
    second = journal.append(subject(2), REFUSE, time=TIME + 1)
    third = journal.confirm(first, time=TIME + 2)
    journal.close_batches()
    return [first, second, third, journal.append(subject(3), ISSUE, time=TIME + 3)]


def tamper(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_receipts_form_a_signed_chain(journal: Journal) -> None:
    recorded = fill(journal)
    previous = NO_PREVIOUS
    for seq, entry in enumerate(recorded, 1):
        receipt = verify_receipt(entry.envelope, kms_id=ROOT.identity.kms_id, ed25519=ROOT.identity.ed25519)
        assert receipt == entry.receipt
        assert (receipt.seq, receipt.prev_hash) == (seq, previous)
        assert journal.by_hash(entry.hash) == journal.by_seq(seq) == entry
        previous = entry.hash
    assert journal.length == 4


def test_everything_survives_a_restart(path: Path) -> None:
    journal = Journal(path, ROOT)
    journal.saw_block(BLOCK)
    recorded = fill(journal)
    batches = journal.batches()
    journal.close()
    again = Journal(path, ROOT)
    assert [again.by_seq(seq) for seq in range(1, 5)] == recorded
    assert again.batches() == batches
    assert again.highest_block() == BLOCK
    assert again.confirmed(APP_ID, INSTANCE_ID) is not None
    following = again.append(subject(9), REFUSE, time=TIME)
    assert following.receipt.prev_hash == recorded[-1].hash
    again.close()


def test_a_nonce_issues_once_also_after_restart(path: Path) -> None:
    journal = Journal(path, ROOT)
    journal.saw_block(BLOCK)
    journal.append(SUBJECT, ISSUE, time=TIME)
    assert journal.nonce_used(SUBJECT.nonce)
    with pytest.raises(NonceUsedError):
        journal.append(SUBJECT, ISSUE, time=TIME)
    journal.close()
    again = Journal(path, ROOT)
    assert again.nonce_used(SUBJECT.nonce)
    with pytest.raises(NonceUsedError):
        again.append(SUBJECT, ISSUE, time=TIME)
    assert again.length == 1
    again.append(SUBJECT, REFUSE, time=TIME)
    again.close()


def test_confirming_twice_gives_the_same_receipt(journal: Journal) -> None:
    first = journal.append(subject(1), ISSUE, time=TIME)
    assert journal.confirmed(APP_ID, INSTANCE_ID) is None
    confirmed = journal.confirm(first, time=TIME)
    assert confirmed.receipt.outcome.decision is Decision.CONFIRM
    assert confirmed.receipt.outcome.confirms == first.hash
    assert journal.confirm(first, time=TIME + 60) == confirmed
    state = journal.confirmed(APP_ID, INSTANCE_ID)
    assert state is not None
    assert (state.epoch, state.seq) == (1, 2)
    assert journal.confirmed(APP_ID, bytes(16)) is None


def test_the_highest_block_never_goes_down(journal: Journal) -> None:
    journal.saw_block(Block(number=9, hash=b"\x09" * 32, time=TIME))
    journal.saw_block(Block(number=8, hash=b"\x08" * 32, time=TIME))
    journal.saw_block(Block(number=9, hash=b"\x0a" * 32, time=TIME))
    assert journal.highest_block() == Block(number=9, hash=b"\x09" * 32, time=TIME)


def test_batches_follow_each_other_and_prove_each_receipt(journal: Journal) -> None:
    recorded = fill(journal)
    assert journal.batch_of(4) is None
    journal.close_batches()
    journal.close_batches()
    batches = journal.batches()
    assert [(b.anchor.from_seq, b.anchor.to_seq) for b in batches] == [(1, 3), (4, 4)]
    assert all(anchor_signer(batch, PIN) == ROOT.identity.address for batch in batches)
    assert journal.batches(after=3) == batches[1:]
    assert journal.batch_of(2) == batches[0]
    payloads = journal.payloads(1, 3)
    for index, entry in enumerate(recorded[:3]):
        assert proof_holds(
            leaf=entry.envelope.payload,
            index=index,
            size=3,
            path=inclusion_proof(payloads, index),
            root=batches[0].anchor.root,
        )


@pytest.mark.parametrize("table", ["receipts", "instances", "batches", "meta"])
def test_rows_cannot_be_deleted(path: Path, table: str) -> None:
    journal = Journal(path, ROOT)
    journal.saw_block(BLOCK)
    fill(journal)
    journal.close()
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(f"DELETE FROM {table}")  # noqa: S608
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM receipts WHERE seq = 1",
        "DELETE FROM receipts WHERE seq = 2",
        "UPDATE receipts SET payload = CAST(replace(CAST(payload AS TEXT), 'revoked', 'allowed') AS BLOB)",
        "UPDATE receipts SET hash = zeroblob(32) WHERE seq = 3",
        "UPDATE receipts SET nonce = NULL WHERE seq = 1",
        "UPDATE receipts SET nonce = zeroblob(32) WHERE seq = 2",
        "UPDATE receipts SET signature = zeroblob(64) WHERE seq = 4",
        "UPDATE receipts SET seq = 5 WHERE seq = 4",
        "DELETE FROM instances",
        "UPDATE instances SET epoch = 7",
        "UPDATE batches SET root = zeroblob(32)",
        "UPDATE batches SET signature = zeroblob(65)",
        "UPDATE batches SET from_seq = 2",
        "UPDATE batches SET to_seq = 9",
        "UPDATE meta SET block_number = 3",
        "UPDATE meta SET block_number = NULL",
        "UPDATE meta SET kms_id = zeroblob(32)",
        "UPDATE meta SET format = 2",
        "DELETE FROM meta",
        "DROP TABLE instances",
    ],
)
def test_a_changed_file_is_refused_at_the_next_start(path: Path, statement: str) -> None:
    journal = Journal(path, ROOT)
    journal.saw_block(BLOCK)
    fill(journal)
    journal.close()
    tamper(path)
    Journal(path, ROOT).close()
    tamper(path, statement)
    with pytest.raises(JournalError):
        Journal(path, ROOT)


def test_a_cut_off_tail_of_a_batch_is_refused(path: Path) -> None:
    journal = Journal(path, ROOT)
    journal.saw_block(BLOCK)
    fill(journal)
    journal.close()
    tamper(path, "DELETE FROM receipts WHERE seq >= 3", "DELETE FROM instances")
    with pytest.raises(JournalError, match="out of place"):
        Journal(path, ROOT)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    with pytest.raises(JournalError):
        Journal(path, ROOT)


@pytest.mark.parametrize(
    "other",
    [DEVELOPMENT_ROOT, RootKey(root=bytes(64), pin=PIN, development=False)],
    ids=["development", "other-root"],
)
def test_the_journal_of_another_kms_is_refused(path: Path, other: RootKey) -> None:
    Journal(path, ROOT).close()
    with pytest.raises(JournalError, match="another KMS"):
        Journal(path, other)


def test_a_second_process_cannot_fork_the_chain(path: Path, journal: Journal) -> None:
    with pytest.raises(JournalError, match="alone"):
        Journal(path, ROOT)


def test_a_killed_writer_leaves_a_whole_chain(path: Path) -> None:
    program = (
        "import sys, dataclasses; from pathlib import Path; from kms.journal import Journal\n"
        "from tests.kms.receipts import REFUSE, ROOT, SUBJECT\n"
        "journal = Journal(Path(sys.argv[1]), ROOT)\n"
        "while True: print(journal.append(SUBJECT, REFUSE, time=1).receipt.seq, flush=True)\n"
    )
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=repository,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(repository)},
        text=True,
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else 20
    journal = Journal(path, ROOT)
    assert journal.length >= acknowledged
    journal.close()
