"""Verification of DCAP quotes: trust domains and enclaves of Intel, and simulated ones.

``attestation.dcap.verify`` is the way in.
"""
