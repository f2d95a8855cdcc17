"""Verification of Nitro documents: of enclaves, and of instances that have a NitroTPM.

A pure function of evidence, trust anchors, policy and time. Checks in their order; the ones of the first two
groups end their group where they fail:

========================  ================================================================================
``nitro-document``
``platform-allowed``      the policy has a section for Nitro
``document-form``         a document as the User Guide describes it (``measurements.nitro.document``)
``document-algorithm``    ES384
``certificate-chain``     the bundle is the chain, up to a pinned root
``certificate-usage``     the document's certificate is for signatures, and of the module
``certificate-validity``  all certificates are valid now
``document-signature``    the document is signed by its certificate
``nitro-policy``
``document-age``          not from the future, and not older than the policy allows
``debug``                 no register of the image is zero: an enclave in debug mode measures nothing
``module-id``             the module is on the policy's list
``measurements``          one of the policy's sets holds
``report-data``           the user data is on the policy's list
========================  ================================================================================

Registers are called ``pcr0``, ``pcr1`` …; those of a NitroTPM ``nitrotpm_pcr0`` …, so that no set for the one
fits the other. Report data is the document's user data, empty if there is none; nonce and public key are
details. A stored document is verified with ``now`` near its own time. ``collateral`` is not used: a document
carries all certificates, and AWS has verifiers turn revocation lists off.
"""

from __future__ import annotations

from datetime import UTC, datetime

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.measurement_sets import check_measurements, check_report_data
from attestation.nitro.document_checks import DOCUMENT_CHECKS, check_document
from attestation.platform_verification import PlatformFacts, PlatformVerification, Window
from attestation.policy import NitroPolicy, Policy
from attestation.verdict import CheckFailedError, CheckList
from attestation.verdict_tree import group_of
from attestation.x509_chain import Chain
from measurements.nitro.document import NitroDocument, NitroModule

POLICY_CHECKS = ("document-age", "debug", "module-id", "measurements", "report-data")
_DOCUMENT_GROUP = ("platform-allowed", *DOCUMENT_CHECKS)


def verify_nitro(
    evidence: EvidenceContainer, *, collateral: Collateral, anchors: Anchors, policy: Policy, now: int
) -> PlatformVerification:
    """Make all checks on ``evidence.report``; never raises for bad evidence."""
    del collateral
    form, rules = CheckList(), CheckList()
    found: tuple[NitroDocument, Chain] | None = None
    try:
        section = _section(form, policy)
        found = check_document(form, evidence.report, anchors=anchors, now=now)
        check_rules(rules, found[0], section, policy, now)
    except CheckFailedError:
        pass
    groups = (
        group_of("nitro-document", "Nitro document", _DOCUMENT_GROUP, form.verdict()),
        group_of("nitro-policy", "Nitro policy", POLICY_CHECKS, rules.verdict()),
    )
    passed = all(group.passed for group in groups)
    return PlatformVerification(
        groups=groups,
        facts=_facts(found[0]) if found and passed else None,
        windows=(*found[1].windows, age_window(found[0], policy)) if found else (),
        chain=found[1].links if found else (),
    )


def registers_of(document: NitroDocument) -> dict[str, bytes]:
    """The registers by the names of policies."""
    prefix = "pcr" if document.kind is NitroModule.ENCLAVE else "nitrotpm_pcr"
    return {f"{prefix}{number}": value for number, value in document.pcrs.items()}


def check_rules(
    checks: CheckList, document: NitroDocument, section: NitroPolicy, policy: Policy, now: int
) -> None:
    """What the policy says of a document that is AWS's; nothing here ends the list."""
    check_age(checks, document, section.max_age, now)
    check_debug(checks, document)
    checks.note(
        "module-id",
        section.module_ids.holds(document.module),
        expected=str(section.module_ids),
        found=document.module,
        reason="the document is of a module that the policy does not list",
        advice="list the module id in the policy, if this is your machine",
    )
    check_measurements(checks, registers_of(document), section.measurements)
    check_report_data(checks, document.user_data or b"", policy.report_data)


def check_age(checks: CheckList, document: NitroDocument, max_age: int, now: int) -> None:
    """That the document is neither from the future nor older than ``max_age`` seconds."""
    # Documents count in milliseconds: within its own second a document is not from the future.
    age = now - document.timestamp // 1000
    checks.note(
        "document-age",
        0 <= age <= max_age,
        expected=f"0 to {max_age} seconds",
        found=f"{age} seconds, made at {_time(document)}",
        reason="the document is from the future" if age < 0 else "the document is too old",
        advice="take a new document, or check a stored one at the time at which it was made",
    )


def age_window(document: NitroDocument, policy: Policy) -> Window:
    """When the document is neither from the future nor too old for a policy with a section for Nitro."""
    assert policy.nitro is not None  # documents are read under such policies alone
    start = document.timestamp // 1000
    return Window(name="age of the document by the policy", start=start, end=start + policy.nitro.max_age)


def check_debug(checks: CheckList, document: NitroDocument) -> None:
    """That the module measured what it booted."""
    zero = document.unmeasured
    checks.note(
        "debug",
        not zero,
        expected="registers of what was booted",
        found=f"zero in register {', '.join(map(str, zero))}" if zero else "no zeros",
        reason="an enclave in debug mode, or an instance that measured nothing: anybody can look into it",
        advice="start the enclave without --debug-mode",
    )


def _section(checks: CheckList, policy: Policy) -> NitroPolicy:
    section = policy.nitro
    checks.require(
        "platform-allowed",
        section is not None,
        expected="a policy with a section for Nitro",
        found="none" if section is None else "as expected",
        reason=f"the policy {policy.name} does not allow Nitro",
        advice="add a [nitro] section to the policy",
    )
    assert section is not None  # the check above has ended otherwise
    return section


def _facts(document: NitroDocument) -> PlatformFacts:
    optional = {"nonce": document.nonce, "public_key": document.public_key}
    return PlatformFacts(
        platform=EvidencePlatform.NITRO,
        development=False,
        report_data=document.user_data or b"",
        registers=registers_of(document),
        identity={"module_id": document.module, "instance_id": document.instance},
        details={
            "kind": "enclave" if document.kind is NitroModule.ENCLAVE else "NitroTPM",
            "time": _time(document),
            **{name: value.hex() for name, value in optional.items() if value is not None},
        },
    )


def _time(document: NitroDocument) -> str:
    try:
        moment = datetime.fromtimestamp(document.timestamp / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return f"{document.timestamp} ms since 1970"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
