"""What a finding is about: the frames, addresses, domains and devices that its message names."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hvfuzz.machine.addresses import PAGE_SHIFT

_NUMBER: Final = r"(0x[0-9a-f]+)"
_FRAME: Final = re.compile(rf"\bframe {_NUMBER}")
_HPA: Final = re.compile(rf"\bhpa {_NUMBER}")
_GPA: Final = re.compile(rf"\bgpa {_NUMBER}")
_GVA: Final = re.compile(rf"\bgva {_NUMBER}")
_IOVA: Final = re.compile(rf"\biova {_NUMBER}")
_DOMAIN: Final = re.compile(r"\bdom([0-9]+)\b")


class Subjects(NamedTuple):
    """Numbers of frames, guest addresses and domains, each once, in the order of the message."""

    frames: tuple[int, ...]
    gpas: tuple[int, ...]
    gvas: tuple[int, ...]
    iovas: tuple[int, ...]
    domains: tuple[int, ...]


def subjects_of(message: str) -> Subjects:
    """What `message` names, in the words that all oracles use: `frame 0x..`, `hpa`, `gpa`, `gva`, `iova`, `dom1`."""
    frames = [(match.start(), int(match[1], 16)) for match in _FRAME.finditer(message)]
    frames += [(match.start(), int(match[1], 16) >> PAGE_SHIFT) for match in _HPA.finditer(message)]
    return Subjects(
        _once([hfn for _, hfn in sorted(frames)]),
        _addresses(_GPA, message),
        _addresses(_GVA, message),
        _addresses(_IOVA, message),
        _once([int(each) for each in _DOMAIN.findall(message)]),
    )


def _addresses(pattern: re.Pattern[str], message: str) -> tuple[int, ...]:
    return _once([int(each, 16) for each in pattern.findall(message)])


def _once(numbers: list[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))
