"""PCR 10: IMA's boot aggregate, against a real IMA log and values of real boots."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest

from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, Provenance, event_over
from measurements.ima import KERNEL_OPTIONS, LoadedModule, ima_events
from tests.support.vectors import vector

CONFIG = {
    "CONFIG_IMA": "y",
    "CONFIG_IMA_ARCH_POLICY": "y",
    "CONFIG_IMA_DEFAULT_HASH": "sha256",
    "CONFIG_IMA_DEFAULT_TEMPLATE": "ima-ng",
    "CONFIG_TCG_CRB": "y",
    "CONFIG_TCG_TIS": "m",
    "CONFIG_CRYPTO_SHA256": "y",
    "CONFIG_CRYPTO_SHA512": "y",
}


def earlier() -> list[MeasuredEvent]:
    return [
        event_over(b"x", pcr=pcr, event_type=EventType.EV_IPL, description="", origin="")
        for pcr in (0, 9, 11)
    ]


def predict(
    *,
    driver: str = "CONFIG_TCG_CRB",
    line: str = "",
    sb: bool = False,
    changes: dict[str, str] | None = None,
    **config: str,
) -> list[MeasuredEvent]:
    modules = [LoadedModule(path="/modules/a.ko", data=b"a"), LoadedModule(path="/modules/b.ko", data=b"b")]
    return ima_events(
        {**CONFIG, **config, **(changes or {})},
        earlier=earlier(),
        tpm_driver=driver,
        secure_boot=sb,
        command_line=line,
        load_modules=lambda: [*modules, modules[0]],
    )


def test_template_data_of_a_real_log_hashes_to_its_digests() -> None:
    """The layout that is hashed is the one of a real log of template ima-ng."""
    lines = vector("tdx-ccel-pairs/cc-trusted-api/ima_log.bin").read_bytes().decode().splitlines()
    for line in lines:
        _, template_hash, template, file_hash, name = line.split()
        algorithm, digest = file_hash.split(":")
        fields = (algorithm.encode() + b":\0" + bytes.fromhex(digest), name.encode() + b"\0")
        data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
        assert template == "ima-ng"
        assert hashlib.sha384(data).hexdigest() == template_hash
    assert "boot_aggregate" in lines[0]


def aggregate() -> bytes:
    extended = hashlib.sha256(bytes(32) + hashlib.sha256(b"x").digest()).digest()
    return hashlib.sha256(extended + bytes(32) * 8 + extended).digest()


@pytest.mark.parametrize(("template", "rest"), [("ima-ng", b""), ("ima-sig", bytes(4))])
def test_the_boot_aggregate_covers_pcr_0_to_9(template: str, rest: bytes) -> None:
    (event,) = predict(CONFIG_IMA_DEFAULT_TEMPLATE=template)
    data = (
        struct.pack("<I", 40)
        + b"sha256:\0"
        + aggregate()
        + struct.pack("<I", 15)
        + b"boot_aggregate\0"
        + rest
    )
    assert event.digests[Bank.SHA256] == hashlib.sha256(data).digest()
    assert event.digests[Bank.SHA384] == hashlib.sha384(data).digest()


def test_a_bank_without_a_built_in_hash_takes_the_padded_sha1() -> None:
    (event,) = predict(CONFIG_CRYPTO_SHA512="m")
    assert event.digests[Bank.SHA384][20:] == bytes(28)
    assert event.digests[Bank.SHA256][20:] != bytes(12)


def test_the_aggregate_of_a_dry_boot_is_marked_as_one() -> None:
    recorded = [replace(event, provenance=Provenance.DRY_BOOT) for event in earlier()]
    events = ima_events(
        CONFIG,
        earlier=recorded,
        tpm_driver="CONFIG_TCG_CRB",
        secure_boot=True,
        command_line="",
        load_modules=lambda: [LoadedModule(path="/modules/a.ko", data=b"a")],
    )
    assert [event.provenance for event in events] == [Provenance.DRY_BOOT, Provenance.COMPUTED]


def test_without_ima_or_with_a_driver_module_nothing_is_measured() -> None:
    assert predict(CONFIG_IMA="n") == []
    assert predict(driver="CONFIG_TCG_TIS") == []


def test_secure_boot_measures_each_module_once() -> None:
    names = [event.description for event in predict(sb=True)]
    assert names == ["IMA entry boot_aggregate", "IMA entry /modules/a.ko", "IMA entry /modules/b.ko"]
    assert len(predict(sb=True, CONFIG_IMA_ARCH_POLICY="n")) == 1


@pytest.mark.parametrize(
    ("line", "config"),
    [
        ("ima_policy=tcb", {}),
        ("quiet ima_hash=sha1", {}),
        ("", {"CONFIG_IMA_DEFAULT_TEMPLATE": "ima-buf"}),
        ("", {"CONFIG_IMA_DEFAULT_HASH": "sha1"}),
    ],
)
def test_what_is_not_derived_is_refused(line: str, config: dict[str, str]) -> None:
    with pytest.raises(FormatError, match="not derived"):
        predict(line=line, changes=config)


def test_the_options_that_decide_are_listed() -> None:
    assert set(CONFIG) == set(KERNEL_OPTIONS)
