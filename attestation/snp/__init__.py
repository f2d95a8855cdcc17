"""Verification of SEV-SNP attestation reports: key certificates, revocation, TCB floors, policy.

``attestation.snp.verify`` is the way in.
"""
