"""Pushes an image of an OCI layout to a registry: blobs first, then the manifest under a tag.

Source: OCI Distribution Specification 1.1, "Pushing a blob monolithically" (POST, then PUT) and "Pushing
manifests". Of an index, the image for linux/amd64 is pushed.
"""

from __future__ import annotations

from urllib.parse import urlencode

from image_builder.oci_image import (
    INDEX_TYPES,
    Descriptor,
    oci_error,
    parse_image_manifest,
    select_platform,
)
from image_builder.oci_layout import OciLayout
from image_builder.oci_registry import RegistryClient


def push_image(layout: OciLayout, found: Descriptor, *, client: RegistryClient, tag: str) -> str:
    """Push what ``found`` stands for; returns the digest of the manifest. Blobs that the registry has are not
    sent again. Raises ``OciError``.
    """
    descriptor = found
    if found.media_type in INDEX_TYPES:
        descriptor = select_platform(b"".join(layout.chunks(found)), subject=found.digest)
    data = b"".join(layout.chunks(descriptor))
    manifest = parse_image_manifest(data, subject=descriptor.digest)
    for blob in (*manifest.layers, manifest.config):
        _push_blob(layout, blob, client)
    headers = {"Content-Type": descriptor.media_type}
    with client.send("PUT", f"manifests/{tag}", headers=headers, data=data) as response:
        client.check(response, 201, what=f"push of {tag}")
    return descriptor.digest


def _push_blob(layout: OciLayout, blob: Descriptor, client: RegistryClient) -> None:
    with client.send("HEAD", f"blobs/{blob.digest}") as response:
        if response.status_code == 200:
            return
    with client.send("POST", "blobs/uploads/") as response:
        client.check(response, 202, what=f"push of {blob.digest}")
        location = response.headers.get("Location", "")
    if not location:
        raise oci_error("the registry gives no upload location", subject=client.name)
    target = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': blob.digest})}"
    headers = {"Content-Type": "application/octet-stream"}
    with (
        layout.path(blob).open("rb") as stream,
        client.send("PUT", target, headers=headers, data=stream) as response,
    ):
        client.check(response, 201, what=f"push of {blob.digest}")
