"""What the image says about itself: ``/etc/keyturn/image.json``, part of the measured root.

Layout: one JSON object with exactly ``{"name": string, "version": string, "dev": boolean}``.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from measurements.errors import FormatError

IMAGE_FACTS = "etc/keyturn/image.json"
"""Path in the image, without a leading slash."""


class ImageFactsError(FormatError):
    """The image's own description is not well formed."""

    code = "image-facts"


class ImageFacts(NamedTuple):
    """Name and version from the recipe, and whether this is a development image."""

    name: str
    version: str
    dev: bool


def encode_facts(facts: ImageFacts) -> bytes:
    """The file's bytes."""
    return json.dumps(facts._asdict(), sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def parse_facts(data: bytes) -> ImageFacts:
    """The facts from the file's bytes. Raises ``ImageFactsError`` on anything but the exact layout."""
    try:
        facts = ImageFacts(**json.loads(data))
    except (TypeError, ValueError) as error:
        raise _error(str(error)) from error
    if not (isinstance(facts.name, str) and isinstance(facts.version, str) and isinstance(facts.dev, bool)):
        raise _error("a member has another type")
    return facts


def _error(reason: str) -> ImageFactsError:
    return ImageFactsError(reason, subject=f"/{IMAGE_FACTS}", advice="rebuild the image")
