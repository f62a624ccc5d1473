"""What devices and entities are called in Home Assistant: ids that never change, and ids that people see.

Ids are made of the names that the contract knows, never of what people call things. A ``_`` inside a name is doubled,
so that no two things have one id and each id says whose it is.
"""

from __future__ import annotations

import re

__all__ = ["is_of_site", "joined", "slug", "split"]

_KINDS = ("camera", "node")


def joined(*names: str) -> str:
    """One id of several names; two lists of names never have the same one."""
    return "_".join(name.replace("_", "__") for name in names)


def split(joined_names: str) -> list[str]:
    """The names that an id was joined of."""
    names = [""]
    for part in re.findall(r"__|_|[^_]+", joined_names):
        if part == "_":
            names.append("")
        else:
            names[-1] += "_" if part == "__" else part
    return names


def is_of_site(device_id: str, site: str) -> bool:
    """Whether a device is one of this site's, by its id."""
    names = split(device_id)
    return len(names) == 4 and names[:2] == ["vigil", site] and names[2] in _KINDS


def slug(*words: str) -> str:
    """Words as the last part of an entity's id, which has lower case letters, digits and single ``_``."""
    return re.sub(r"[^a-z0-9]+", "_", " ".join(words).lower()).strip("_")
