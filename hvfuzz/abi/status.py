"""The status codes that a hypercall returns in RAX."""

from enum import IntEnum

from hvfuzz.machine.addresses import U64


class Status(IntEnum):
    """Zero, or a negative number. `word` is its two's-complement u64, `meaning` its sentence in ABI.md."""

    meaning: str
    word: int

    def __new__(cls, value: int, meaning: str = "") -> "Status":
        """Make a member; `word` is computed once."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.word = value & U64
        return member

    OK = 0, "Success. RDX holds the call's result."
    NO_CALL = -1, "The call does not exist in the domain's version."
    INVALID = -2, "An argument or a field of the header has a value that is not allowed."
    FAULT = -3, "Memory that the call accesses is not accessible to the caller, or to its devices."
    NOT_PERMITTED = -4, "The caller lacks the privilege, or the right to the page or device."
    TOO_NEW = -5, "The struct uses a version or fields that the domain has not negotiated."
    NO_DOMAIN = -6, "The domain does not exist."
    NO_MEMORY = -7, "Too few host frames are free."
    NO_POOL = -8, "The domain's pool has fewer table pages than the call needs."
    NOT_PRESENT = -9, "The page is not mapped, or the device is not assigned."
    EXISTS = -10, "An existing mapping is in the way."
    NOT_OWNER = -11, "The page is present, but its frame belongs to another domain."
    BUSY = -12, "The frame, grant entry or device is in use."
    NO_GRANT = -13, "The grant entry is not live, or is for another domain."
    BAD_HANDLE = -14, "No live grant mapping of the caller has this handle."
    NO_PORT = -15, "The event port is not allocated, or is not in the state that the call needs."
    LIMIT = -16, "The domain's table of grants, handles or ports is full."
    NO_DEVICE = -17, "The device does not exist, or is of the wrong kind."
    AGAIN = -18, "The call cannot succeed now, but may later."

    @classmethod
    def from_word(cls, word: int) -> "Status | None":
        """The status with this RAX value; None if there is no such status."""
        return _BY_WORD.get(word)


_BY_WORD = {status.word: status for status in Status}
