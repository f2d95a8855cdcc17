"""The verbs of the command and their modules: what ``keyturn --help`` shows without loading any of them."""

from __future__ import annotations

from typing import NamedTuple

SUMMARY = "Build confidential VM images, know their registers before the first boot, boot them."


class Verb(NamedTuple):
    """One verb: the module whose ``register`` adds it, and what it does in a few words."""

    module: str
    summary: str


VERBS = {
    "init": Verb("keyturn.verb_lock", "Write a commented recipe that builds as it is."),
    "lock": Verb("keyturn.verb_lock", "Name every input of the image by hash."),
    "fetch": Verb("keyturn.verb_lock", "Fill the store with everything that the lock names."),
    "build": Verb("keyturn.verb_build", "Build the image of a locked recipe."),
    "predict": Verb("keyturn.verb_predict", "Compute every register of a boot, with its inputs."),
    "run": Verb("keyturn.verb_run", "Boot an image in QEMU with a TPM."),
    "explain": Verb("keyturn.verb_explain", "Say why registers differ from the predicted ones."),
    "verify": Verb("keyturn.verb_verify", "Check everything from the hardware's root to the chain."),
    "policy": Verb("keyturn.verb_policy", "Write, explain and name a verifier's policy."),
    "anchors": Verb("keyturn.verb_anchors", "List the root certificates that are trusted."),
    "evidence": Verb("keyturn.verb_evidence", "Import evidence of any source, and look into it."),
    "collateral": Verb("keyturn.verb_collateral", "Fetch, show and bundle what vendors publish."),
    "diff": Verb("keyturn.verb_diff", "Say what differs between two images."),
    "reproduce": Verb("keyturn.verb_diff", "Build an image again and compare."),
    "app": Verb("keyturn.verb_app", "Build apps: containers with a measured manifest."),
    "chain": Verb("keyturn.verb_chain", "Govern on chain what gets keys."),
    "kms": Verb("keyturn.verb_kms", "Run a KMS for development, ask any KMS."),
    "firmware": Verb("keyturn.verb_firmware", "Look at firmware files."),
    "acpi": Verb("keyturn.verb_acpi", "Read ACPI tables from QEMU, and what they depend on."),
    "eif": Verb("keyturn.verb_eif", "Write and read enclave image files."),
    "sev": Verb("keyturn.verb_sev", "Read SEV reports and firmware, sign ID blocks."),
    "store": Verb("keyturn.verb_lock", "Keep the inputs of a lock for good."),
    "tpm": Verb("keyturn.verb_tpm", "Make software TPMs, challenge any TPM."),
    "sim": Verb("keyturn.verb_sim", "Simulate trust domains, for development only."),
    "demo": Verb("keyturn.verb_demo", "Everything at once on this machine, and every refusal."),
}


def overview() -> str:
    """The text of ``keyturn --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    head = ["Usage: keyturn VERB [OPTIONS] [ARGUMENTS]", "", SUMMARY, "", "Verbs:"]
    tail = ["", "keyturn VERB --help tells the options of a verb.", ""]
    return "\n".join([*head, *lines, *tail])
