"""Hypothesis strategies for whole policies, within what a policy can say."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from attestation.container import EvidencePlatform
from attestation.policy import (
    AkProof,
    Allowed,
    DcapPolicy,
    Environment,
    GpuPolicy,
    GraceWindow,
    Measurements,
    MeasurementSet,
    NitroPolicy,
    Policy,
    RootPurpose,
    SnpFloor,
    SnpPolicy,
    TcbStatus,
    TpmPolicy,
    TrustAnchor,
)
from attestation.policy_kinds import ANY, LAST_MOMENT
from attestation.policy_measurements import REGISTERS
from attestation.policy_schema import GUEST_POLICY, PLATFORM_INFO

_FLAG = st.booleans()
_U32 = st.integers(0, (1 << 32) - 1)
_SPAN = st.integers(1, 999_999_999)
_MOMENT = st.integers(0, LAST_MOMENT)
_NAME = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)
_LINE = st.text(string.ascii_letters + ' "=,é', min_size=1, max_size=30)
_WORD = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=12).filter(
    lambda word: word != ANY
)
_ADVISORY = st.integers(0, 99999).map(lambda number: f"INTEL-SA-{number:05}")
_STATUSES = st.frozensets(st.sampled_from([one for one in TcbStatus if one is not TcbStatus.REVOKED]))
_DEV_ONLY = {EvidencePlatform.SIM}


def octets(low: int, high: int | None = None) -> st.SearchStrategy[str]:
    """Hexadecimal digits of so many bytes."""
    return st.binary(min_size=low, max_size=high or low).map(bytes.hex)


def allowed(
    values: st.SearchStrategy[str], *, any_too: bool = True, both: bool = False
) -> st.SearchStrategy[Allowed]:
    """A list, or any; with ``both`` also any and some."""
    lists = st.frozensets(values, max_size=3).map(lambda found: Allowed(values=found))
    openly = st.just(Allowed(values=frozenset(), any=True))
    mixed = st.frozensets(values, min_size=1, max_size=3).map(lambda found: Allowed(values=found, any=True))
    return st.one_of(lists, *([openly] if any_too else []), *([mixed] if both else []))


def measurements(platform: EvidencePlatform) -> st.SearchStrategy[Measurements]:
    """Sets with different names, or any."""
    registers = st.sampled_from(sorted(REGISTERS[platform].items())).flatmap(
        lambda register: st.tuples(
            st.just(register[0]), st.binary(min_size=register[1], max_size=register[1])
        )
    )
    one = st.builds(
        MeasurementSet,
        name=_NAME,
        registers=st.lists(registers, min_size=1, max_size=3).map(dict),
    )
    sets = st.lists(one, max_size=3, unique_by=lambda found: found.name)
    listed = sets.map(lambda found: Measurements(sets=tuple(found)))
    return st.one_of(listed, st.just(Measurements(sets=(), any=True)))


def dcap(platform: EvidencePlatform) -> st.SearchStrategy[DcapPolicy]:
    """A section for quotes."""
    grace = st.builds(GraceWindow, statuses=_STATUSES, until=_MOMENT)
    return st.builds(
        DcapPolicy,
        statuses=_STATUSES,
        grace=st.lists(grace, max_size=2).map(tuple),
        min_tcb_date=_MOMENT,
        min_evaluation_number=_U32,
        max_collateral_age=_SPAN,
        advisories_accepted=allowed(_ADVISORY),
        advisories_denied=st.frozensets(_ADVISORY, max_size=2),
        dynamic_platform=_FLAG,
        cached_keys=_FLAG,
        smt=_FLAG,
        migratable=_FLAG,
        ppids=allowed(octets(16)),
        platform_instances=allowed(octets(16)),
        fmspcs=allowed(octets(6)),
        service_tds=allowed(octets(48)),
        measurements=measurements(platform),
    )


def _floors() -> st.SearchStrategy[dict[str, SnpFloor]]:
    byte = st.integers(0, 255)
    spls = {"boot_loader": byte, "tee": byte, "snp": byte, "microcode": byte}
    before = st.builds(SnpFloor, **spls)
    return st.fixed_dictionaries(
        {}, optional={"milan": before, "genoa": before, "turin": st.builds(SnpFloor, fmc=byte, **spls)}
    )


SNP = st.builds(
    SnpPolicy,
    floors=_floors(),
    vlek=_FLAG,
    chip_ids=allowed(octets(64), both=True),
    csp_ids=allowed(_WORD, both=True),
    vmpls=st.frozensets(st.integers(0, 3)),
    smt=_FLAG,
    migration_agent=_FLAG,
    provisional_firmware=_FLAG,
    min_guest_svn=_U32,
    required_platform_info=st.frozensets(st.sampled_from(PLATFORM_INFO)),
    required_guest_policy=st.frozensets(st.sampled_from(GUEST_POLICY)),
    id_keys=allowed(octets(48)),
    author_keys=allowed(octets(48)),
    max_crl_age=_SPAN,
    measurements=measurements(EvidencePlatform.SNP),
)
TPM = st.builds(
    TpmPolicy,
    ak_proofs=st.frozensets(st.sampled_from(AkProof)),
    banks=st.frozensets(st.sampled_from(["sha256", "sha384"])),
    pcrs=st.frozensets(st.integers(0, 23)),
    event_log=_FLAG,
    activation_secrets=allowed(octets(32), any_too=False),
    platform_ids=allowed(octets(32)),
    measurements=measurements(EvidencePlatform.TPM),
)
NITRO = st.builds(
    NitroPolicy,
    max_age=_SPAN,
    module_ids=allowed(_WORD),
    measurements=measurements(EvidencePlatform.NITRO),
)
GPU = st.builds(
    GpuPolicy,
    count=st.integers(1, 64),
    architectures=allowed(_WORD),
    driver_versions=allowed(_WORD),
    vbios_versions=allowed(_WORD),
    rims=_FLAG,
    ocsp=_FLAG,
    bound=_FLAG,
)
_SECTIONS: dict[EvidencePlatform, st.SearchStrategy[object]] = {
    **{one: dcap(one) for one in (EvidencePlatform.TDX, EvidencePlatform.SGX, EvidencePlatform.SIM)},
    EvidencePlatform.SNP: SNP,
    EvidencePlatform.TPM: TPM,
    EvidencePlatform.NITRO: NITRO,
}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A policy with some of the platforms."""
    environment = draw(st.sampled_from(Environment))
    release = environment is Environment.RELEASE
    known = [one for one in EvidencePlatform if not (release and one in _DEV_ONLY)]
    listed = draw(st.frozensets(st.sampled_from(known)))
    purposes = [one for one in RootPurpose if not (release and one is RootPurpose.SIM)]
    root = st.builds(
        TrustAnchor,
        purpose=st.sampled_from(purposes),
        fingerprint=st.binary(min_size=32, max_size=32),
        subject=_LINE,
        source=_LINE,
        date=st.dates().map(str),
    )
    sections = {one.value: draw(_SECTIONS[one]) for one in EvidencePlatform if one in listed}
    if EvidencePlatform.TPM not in listed:
        sections["tpm"] = draw(st.one_of(st.none(), TPM))
    return draw(
        st.builds(
            Policy,
            name=_NAME,
            environment=st.just(environment),
            platforms=st.just(listed),
            report_data=allowed(octets(1, 64)),
            app_hashes=allowed(octets(32)),
            gpu=st.one_of(st.none(), GPU),
            roots=st.lists(root, max_size=2).map(tuple),
            **{name: st.just(section) for name, section in sections.items()},
        )
    )
