"""Evidence of TPMs: quotes, proofs of attestation keys, Azure's HCL reports, clouds' certificates."""
