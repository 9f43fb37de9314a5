"""All references by name; each is imported when it is asked for, since what it needs may be missing."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hvfuzz.references.reference import Reference

REFERENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stage1": "hvfuzz.references.stage1",
        "ept": "hvfuzz.references.ept",
        "ring": "hvfuzz.references.ring",
        "vtd": "hvfuzz.references.vtd",
    }
)
"""{name of a reference: its module, which defines REFERENCE}."""


def load_reference(name: str) -> Reference:
    """The reference called `name`, a key of REFERENCES."""
    reference: Reference = importlib.import_module(REFERENCES[name]).REFERENCE
    return reference
