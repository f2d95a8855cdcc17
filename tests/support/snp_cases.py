"""Evidence about generated and real SNP machines, and their verification, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.platform_verification import PlatformVerification
from attestation.policy import Policy, SnpPolicy
from attestation.snp.products import Product
from attestation.snp.verify import verify_snp
from attestation.verdict_tree import NOT_CHECKED
from attestation.x509_chain import load_pem_certificates
from measurements.sev.report import SigningKey
from tests.support.policies import only, permissive_policy
from tests.support.snp_pki import CSP, NOW, LeafWishes, Wishes, chip_of, levels_of, pki, report_bytes
from tests.support.vectors import vector


@dataclass(frozen=True, kw_only=True)
class SnpCase:
    """One verification; tests change one thing of it with ``replace``."""

    report: bytes
    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    policy: Policy
    now: int = NOW
    carried: tuple[bytes, ...] = ()
    """Certificates in the evidence itself."""
    platform: EvidencePlatform = EvidencePlatform.SNP
    embedded: Collateral = field(default_factory=Collateral)

    def verify(self) -> PlatformVerification:
        """The outcome."""
        return verify_snp(
            EvidenceContainer(
                platform=self.platform,
                report=self.report,
                certificates=self.carried,
                collateral=self.embedded,
            ),
            collateral=Collateral(certificates=self.certificates, crls=self.crls),
            anchors=anchors_for(self.policy),
            policy=self.policy,
            now=self.now,
        )

    def demanding(self, **changes: object) -> SnpCase:
        """The same under a policy whose [snp] section has these values."""
        assert self.policy.snp is not None
        return replace(self, policy=replace(self.policy, snp=replace_section(self.policy.snp, changes)))


def replace_section(section: SnpPolicy, changes: dict[str, object]) -> SnpPolicy:
    """``dataclasses.replace`` for values of any type; the names are checked by it."""
    values = {name: getattr(section, name) for name in SnpPolicy.__dataclass_fields__}
    unknown = set(changes) - set(values)
    assert not unknown, unknown
    return SnpPolicy(**{**values, **changes})


def good_case(wishes: Wishes | None = None, leaf: LeafWishes | None = None) -> SnpCase:
    """A machine with which nothing is wrong, under a policy that lists it, unless ``wishes`` differ."""
    wishes = wishes or Wishes()
    made = pki(wishes.product)
    issuer = made.asvk if wishes.kind is SigningKey.VLEK else made.ask
    leaf = leaf or LeafWishes(kind=wishes.kind, levels=wishes.reported or levels_of(wishes.product))
    case = SnpCase(
        report=report_bytes(wishes),
        certificates=(made.leaf(leaf).der, issuer.der, made.ark.der),
        crls=(made.crl(),),
        policy=permissive_policy(EvidencePlatform.SNP, roots=[pki(one).anchor for one in Product]),
    )
    vlek = wishes.kind is SigningKey.VLEK
    return case.demanding(csp_ids=only(CSP)) if vlek else case.demanding(chip_ids=only(chip(wishes)))


def chip(wishes: Wishes) -> str:
    """Hexadecimal chip id of the machine of ``wishes``."""
    return chip_of(wishes.product).hex()


def failed(found: PlatformVerification) -> set[str]:
    """Names of the checks that were made and failed."""
    return {
        check.name
        for group in found.groups
        for check in group.checks
        if not check.passed and check.found != NOT_CHECKED
    }


def made_checks(found: PlatformVerification) -> set[str]:
    """Names of the checks that were made."""
    return {check.name for group in found.groups for check in group.checks if check.found != NOT_CHECKED}


def pem(name: str) -> tuple[bytes, ...]:
    """Certificates of a vector in PEM."""
    return load_pem_certificates(vector(f"attestation/snp/{name}").read_bytes())


def roots(*products: str) -> tuple[bytes, ...]:
    """AMD's ASK, ARK and ASVK of products."""
    return tuple(der for one in products for der in pem(f"{one}_ask_ark_asvk.pem"))


def real_case(report: bytes, certificates: Iterable[bytes], *, now: int) -> SnpCase:
    """Real evidence under a policy that allows the machine; there are no public revocation lists."""
    chip_id, policy = report[0x1A0:0x1E0].hex(), permissive_policy(EvidencePlatform.SNP)
    case = SnpCase(report=report, certificates=tuple(certificates), crls=(), policy=policy, now=now)
    return case.demanding(chip_ids=only(chip_id))
