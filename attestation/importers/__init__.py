"""Evidence as other software writes it, made into a container. Nothing is verified here: what is imported is
still a claim, and the container keeps the bytes that were signed.

``attestation.importers.detect`` finds the format of a file and lists those that are known; each other module
reads the formats of one source.
"""

from __future__ import annotations

from attestation.importers.detect import FORMATS, import_evidence
from attestation.importers.source import EvidenceImportError, SideFile, SideFiles

__all__ = ["FORMATS", "EvidenceImportError", "SideFile", "SideFiles", "import_evidence"]
