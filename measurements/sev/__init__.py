"""AMD SEV, SEV-ES and SEV-SNP: what the secure processor measures at launch, and what its report says."""
