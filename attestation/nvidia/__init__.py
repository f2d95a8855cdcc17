"""NVIDIA GPUs and NVSwitches beside a confidential VM: reports, certificates, revocation, manifests.

``verifier.verify_gpus`` is the way in; ``evidence_files.read_gpu_evidence`` reads what NVIDIA's tools write.
"""
