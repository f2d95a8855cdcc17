"""A policy in words: what it allows, what it refuses, what it decides openly, what ends when.

Warnings stand where a policy lets more pass than its owner may think: anything that is openly any, no
freshness, a policy for development, grace windows that are over, lists without which nothing passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from attestation.container import EvidencePlatform
from attestation.policy import (
    AkProof,
    Allowed,
    DcapPolicy,
    Environment,
    GpuPolicy,
    GraceWindow,
    Measurements,
    NitroPolicy,
    Policy,
    RootPurpose,
    SnpPolicy,
    TpmPolicy,
)

SHORT = 16
"""Hexadecimal digits of a value that a sentence shows."""
MAX_NAMED = 6
"""Values that a sentence names; of more it says how many there are."""


class Tone(StrEnum):
    """What a sentence says."""

    ALLOWS = "allows"
    REFUSES = "refuses"
    DECIDES = "decides"
    """A choice that is made openly, either way."""
    ENDS = "ends"
    WARNS = "warns"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """One sentence."""

    tone: Tone
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """The sentences on one section of the policy."""

    title: str
    sentences: tuple[Sentence, ...]

    def as_json(self) -> dict[str, object]:
        """The paragraph as ``--json`` shows it."""
        sentences = [{"tone": one.tone.value, "text": one.text} for one in self.sentences]
        return {"title": self.title, "sentences": sentences}


def policy_words(policy: Policy, now: int) -> tuple[Paragraph, ...]:
    """The policy in words at ``now``, seconds since 1970."""
    sections: list[tuple[str, Iterable[Sentence]]] = [("Policy", _general(policy))]
    for title, dcap in (
        ("Intel TDX", policy.tdx),
        ("Intel SGX", policy.sgx),
        ("Simulated trust domains", policy.sim),
    ):
        if dcap is not None:
            sections.append((title, _dcap(dcap, now)))
    if policy.snp is not None:
        sections.append(("AMD SEV-SNP", _snp(policy.snp)))
    if policy.tpm is not None:
        sections.append(("TPM", (*_tpm(policy.tpm), *_tpm_roots(policy, policy.tpm))))
    if policy.nitro is not None:
        sections.append(("AWS Nitro", _nitro(policy.nitro)))
    if policy.gpu is not None:
        sections.append(("NVIDIA GPUs", _gpu(policy.gpu)))
    if policy.roots:
        sections.append(("Own roots", _roots(policy)))
    return tuple(Paragraph(title=title, sentences=tuple(found)) for title, found in sections)


def _general(policy: Policy) -> Iterator[Sentence]:
    platforms = ", ".join(sorted(policy.platforms))
    if platforms:
        yield _allows(f"Evidence of {platforms} is accepted, and of no other platform.")
    else:
        yield _warns("No platform is listed: nothing passes.")
    yield _refuses("Debug mode and revoked TCB levels are refused on every platform.")
    if policy.environment is Environment.DEV:
        yield _warns(
            "The policy is for development: simulated TEEs and development images may pass. "
            "Give no secrets to what it accepts."
        )
    else:
        yield _refuses("Development images and simulated TEEs are refused.")
    yield from _list(policy.report_data, "Report data must be", "report data")
    if policy.report_data.any:
        yield _warns(
            "Any report data passes, so old evidence passes as well: prove freshness in another way."
        )
    yield from _list(policy.app_hashes, "The app manifest's hash must be", "app")
    yield from _app_limits(policy)
    if policy.tpm is not None:
        yield _decides("Every evidence must have a TPM part, beside its platform's report.")
    if EvidencePlatform.TPM in policy.platforms and len(policy.platforms) > 1:
        yield _warns(
            "A TPM alone passes as well, without the report of a TEE: its host sees the memory. "
            "List tpm among the platforms only if that is meant."
        )
    if policy.gpu is not None:
        yield _decides("Every evidence must have GPU evidence.")


def _app_limits(policy: Policy) -> Iterator[Sentence]:
    """What the app's hash and the mark of a development image are worth."""
    sections = (policy.tdx, policy.sgx, policy.sim, policy.snp, policy.tpm, policy.nitro)
    unmeasured = all(one.measurements.any for one in sections if one is not None)
    if not policy.app_hashes.any and unmeasured:
        yield _warns("Any measurement passes, and other software can claim an app's hash.")
    if policy.app_hashes.any and unmeasured and policy.environment is Environment.RELEASE:
        yield _warns(
            "Development images are known by their runtime events, which evidence may leave out: "
            "list measurements or app hashes."
        )


def _dcap(section: DcapPolicy, now: int) -> Iterator[Sentence]:
    if section.statuses:
        yield _allows(f"TCB status may be {_join(section.statuses)}, without an end.")
    else:
        yield _refuses("No TCB status is accepted without an end.")
    for window in section.grace:
        yield from _window(window, section, now)
    if not section.statuses and not any(window.statuses and window.until >= now for window in section.grace):
        yield _warns("No TCB status is accepted at this time: nothing passes.")
    yield _refuses(f"TCB levels from before {_date(section.min_tcb_date)} are refused.")
    yield _refuses(
        f"Collateral with an evaluation number below {section.min_evaluation_number}, "
        f"or issued more than {_span(section.max_collateral_age)} ago, is refused."
    )
    if not section.min_tcb_date or not section.min_evaluation_number:
        yield _warns(
            "There is no floor for the age of TCB levels: old collateral hides what has been found since."
        )
    yield from _advisories(section)
    for permitted, what in (
        (section.dynamic_platform, "Dynamic platforms (several sockets, most clouds)"),
        (section.cached_keys, "Platforms whose keys are cached at Intel's registration service"),
        (section.smt, "Platforms with simultaneous multithreading"),
        (section.migratable, "Trust domains that can move to other machines"),
    ):
        yield _decides(f"{what} are {'accepted' if permitted else 'refused'}.")
    yield from _list(section.ppids, "The platform's PPID must be", "platform")
    yield from _list(section.platform_instances, "The platform instance must be", "platform instance")
    yield from _list(section.fmspcs, "The FMSPC must be", "FMSPC")
    if section.service_tds.any:
        yield _warns("Any service trust domain is accepted; it can see what the trust domain migrates.")
    elif section.service_tds.values:
        yield _decides(
            f"Besides none, the service trust domain may be {_values(section.service_tds.values)}."
        )
    else:
        yield _refuses("A service trust domain is refused.")
    yield from _measurements(section.measurements)


def _window(window: GraceWindow, section: DcapPolicy, now: int) -> Iterator[Sentence]:
    statuses = _join(window.statuses)
    if not window.statuses:
        yield _warns(f"The grace window until {_time(window.until)} names no status and has no effect.")
    elif window.until < now:
        yield _warns(f"The grace window for {statuses} was over at {_time(window.until)}: remove it.")
    else:
        days = (window.until - now) // 86400
        yield _ends(f"{statuses} is accepted until {_time(window.until)} ({days} days from now).")
    if window.statuses and window.statuses <= section.statuses:
        yield _warns(f"{statuses} is accepted without an end anyway: the grace window has no effect.")


def _advisories(section: DcapPolicy) -> Iterator[Sentence]:
    accepted, denied = section.advisories_accepted, section.advisories_denied
    if accepted.any:
        yield _warns("Any advisory is accepted" + (" but those that are denied." if denied else "."))
    elif accepted.values:
        yield _decides(f"The TCB level may carry {_join(accepted.values)}; any other advisory is refused.")
    else:
        yield _refuses("TCB levels with advisories are refused.")
    if denied:
        yield _refuses(f"TCB levels with {_join(denied)} are refused in any case.")


def _floors(section: SnpPolicy) -> Iterator[Sentence]:
    for product, floor in sorted(section.floors.items()):
        levels = [("boot loader", floor.boot_loader), ("TEE", floor.tee), ("SNP", floor.snp)]
        levels += [("microcode", floor.microcode), *([("FMC", floor.fmc)] if floor.fmc is not None else [])]
        text = ", ".join(f"{name} {value}" for name, value in levels)
        yield _allows(f"{product.capitalize()} is accepted if all of its TCB versions reach {text}.")
        if not any(value for _, value in levels):
            yield _warns(f"The floor of {product.capitalize()} is zero: firmware of any age passes.")
    if not section.floors:
        yield _warns("No product has a floor: nothing passes.")
    if "milan" in section.floors:
        count = len(section.chip_ids.values)
        yield _warns(
            f"Keys of Milan chips can be taken by software: only chips that are listed pass ({count} are), "
            "and clouds that are listed by name."
        )


def _snp(section: SnpPolicy) -> Iterator[Sentence]:
    yield from _floors(section)
    yield _decides(f"Reports signed by a cloud's key (VLEK) are {'accepted' if section.vlek else 'refused'}.")
    if section.chip_ids.any:
        yield _decides(
            "Any chip is accepted" + (" (Milan: listed ones)." if section.chip_ids.values else ".")
        )
    else:
        yield from _list(section.chip_ids, "The chip must be", "chip")
    if section.vlek:
        if section.csp_ids.any and section.csp_ids.values:
            yield _decides(
                f"Any cloud's key is accepted, for Milan that of {_values(section.csp_ids.values)}."
            )
        else:
            yield from _list(section.csp_ids, "A cloud's key must be of", "cloud")
    if section.vmpls:
        yield _decides(f"Reports may be asked for at VMPL {_join(map(str, section.vmpls))}.")
    else:
        yield _warns("No VMPL is listed: nothing passes.")
    for permitted, what in (
        (section.smt, "A guest policy that allows simultaneous multithreading is"),
        (section.migration_agent, "A guest policy that allows a migration agent is"),
        (section.provisional_firmware, "Firmware that is not committed, and can be rolled back, is"),
    ):
        yield _decides(f"{what} {'accepted' if permitted else 'refused'}.")
    if section.required_platform_info:
        yield _refuses(f"Platforms without {_join(section.required_platform_info)} are refused.")
    if section.required_guest_policy:
        yield _refuses(f"Guest policies without {_join(section.required_guest_policy)} are refused.")
    yield _refuses(f"A guest SVN below {section.min_guest_svn} is refused.")
    yield _refuses(f"Revocation lists issued more than {_span(section.max_crl_age)} ago are refused.")
    yield from _list(section.id_keys, "The ID block must be signed by", "ID key")
    yield from _list(section.author_keys, "The author key must be", "author key")
    yield from _measurements(section.measurements)


_PROOFS = {
    AkProof.CREDENTIAL: "a credential that the EK's TPM opened",
    AkProof.AK_CERTIFICATE: "a certificate of the attestation key",
    AkProof.HCL_REPORT: "Azure's HCL report",
    AkProof.NITRO_DOCUMENT: "a NitroTPM document",
}


def _tpm(section: TpmPolicy) -> Iterator[Sentence]:
    if section.ak_proofs:
        proofs = " or ".join(_PROOFS[one] for one in sorted(section.ak_proofs))
        yield _allows(f"The attestation key is proven by {proofs}.")
    else:
        yield _warns("No proof of the attestation key is accepted: nothing passes.")
    if AkProof.CREDENTIAL in section.ak_proofs and not section.activation_secrets.values:
        yield _warns("No activation value is listed: no credential counts as opened (a KMS makes its own).")
    pcrs = ", ".join(map(str, sorted(section.pcrs)))
    banks = _join(section.banks) if section.banks else "each bank that it covers"
    if pcrs or section.banks:
        registers = f"PCR {pcrs}" if pcrs else "any register"
        yield _refuses(f"A quote that does not cover {registers} of {banks} is refused.")
    else:
        yield _warns("The quote need not cover any register.")
    yield _decides(
        f"An event log that yields the registers is {'demanded' if section.event_log else 'not demanded'}."
    )
    yield from _list(section.platform_ids, "The TPM must be", "TPM")
    yield from _measurements(section.measurements)


def _tpm_roots(policy: Policy, section: TpmPolicy) -> Iterator[Sentence]:
    """Makers of TPMs are many, so none of their roots is pinned: the policy has to."""
    purposes = {root.purpose for root in policy.roots}
    for proof, purpose in (
        (AkProof.CREDENTIAL, RootPurpose.TPM_EK),
        (AkProof.AK_CERTIFICATE, RootPurpose.TPM_AK),
    ):
        if proof in section.ak_proofs and purpose not in purposes:
            yield _warns(f"No root for {purpose} is listed under roots: {_PROOFS[proof]} proves nothing.")


def _nitro(section: NitroPolicy) -> Iterator[Sentence]:
    yield _refuses(f"Documents older than {_span(section.max_age)} are refused.")
    yield from _list(section.module_ids, "The module must be", "module")
    yield from _measurements(section.measurements)


def _gpu(section: GpuPolicy) -> Iterator[Sentence]:
    yield _refuses(f"Another number of GPUs and switches than {section.count} is refused.")
    yield from _list(section.architectures, "The architecture must be", "architecture")
    yield from _list(section.driver_versions, "The driver must be", "driver version")
    yield from _list(section.vbios_versions, "The VBIOS must be", "VBIOS version")
    for demanded, what, risk in (
        (section.rims, "Comparison with NVIDIA's signed manifests", "changed firmware passes"),
        (section.ocsp, "A fresh OCSP answer for each certificate", "revoked devices pass"),
        (section.bound, "The GPU evidence in the CPU's report data", "a GPU of another machine passes"),
    ):
        yield _decides(f"{what} is {'demanded' if demanded else 'not demanded'}.")
        if not demanded:
            yield _warns(f"Without it {risk}.")


def _roots(policy: Policy) -> Iterator[Sentence]:
    for root in policy.roots:
        yield _allows(
            f"{root.subject} is trusted for {root.purpose} besides the vendors' roots "
            f"(SHA-256 {root.fingerprint.hex()}; {root.source}, {root.date})."
        )


def _measurements(measurements: Measurements) -> Iterator[Sentence]:
    if measurements.any:
        yield _warns("Any measurements are accepted: whatever runs there passes.")
    elif measurements.sets:
        for one in measurements.sets:
            yield _allows(f"{one.name} may run there: {', '.join(one.registers)} must be its values.")
    else:
        yield _warns("No measurement set is listed: nothing passes.")


def _list(allowed: Allowed, must: str, what: str) -> Iterator[Sentence]:
    """A list that is demanded as a whole: no entry, no pass."""
    if allowed.any:
        yield _decides(f"Any {what} is accepted.")
    elif allowed.values:
        yield _allows(f"{must} {_values(allowed.values)}.")
    else:
        yield _warns(f"No {what} is listed: nothing passes.")


def _values(values: Iterable[str]) -> str:
    found = sorted(values)
    if len(found) > MAX_NAMED:
        return f"one of {len(found)} that are listed"
    return " or ".join(one if len(one) <= 2 * SHORT else f"{one[:SHORT]}…" for one in found)


def _join(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


def _date(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _time(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _allows(text: str) -> Sentence:
    return Sentence(tone=Tone.ALLOWS, text=text)


def _refuses(text: str) -> Sentence:
    return Sentence(tone=Tone.REFUSES, text=text)


def _decides(text: str) -> Sentence:
    return Sentence(tone=Tone.DECIDES, text=text)


def _ends(text: str) -> Sentence:
    return Sentence(tone=Tone.ENDS, text=text)


def _warns(text: str) -> Sentence:
    return Sentence(tone=Tone.WARNS, text=text)
