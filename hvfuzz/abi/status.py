"""The status codes of the contract: what a hypercall leaves in RAX."""

from enum import IntEnum

WORD_MASK = 2**64 - 1


class Status(IntEnum):
    """Zero, or a negative number that a guest reads as a two's-complement u64 (`word`)."""

    meaning: str
    word: int

    def __new__(cls, value: int, meaning: str = "") -> "Status":
        """Carry the sentence of the ABI document and the RAX form, computed once, with the member."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.word = value & WORD_MASK
        return member

    OK = 0, "Done; RDX holds the call's result."
    NO_CALL = -1, "No such call, or none at the version that the domain speaks."
    INVALID = -2, "An argument, or the header of the struct, has a value that it may not have."
    FAULT = -3, "Guest memory that the call reads or writes is not accessible to the caller."
    NOT_PERMITTED = -4, "The caller lacks the privilege, or the right over the frame or device."
    TOO_NEW = -5, "The struct says more than the negotiated version knows."
    NO_DOMAIN = -6, "No such domain."
    NO_MEMORY = -7, "Not enough free host frames."
    NO_POOL = -8, "The domain's paging pool has fewer table pages than the call needs."
    NOT_PRESENT = -9, "Nothing is mapped, or assigned, there."
    EXISTS = -10, "Something is mapped there already."
    NOT_OWNER = -11, "The frame is present but belongs to another domain."
    BUSY = -12, "The frame, entry or device is in use."
    NO_GRANT = -13, "No live grant entry of that number for the caller."
    BAD_HANDLE = -14, "No live grant mapping has that handle."
    NO_PORT = -15, "No such event port, or none in the needed state."
    LIMIT = -16, "The domain's table for this kind of thing is full."
    NO_DEVICE = -17, "No such device."
    AGAIN = -18, "Nothing to be had now; the same call may succeed later."

    @classmethod
    def from_word(cls, word: int) -> "Status | None":
        """The status that a u64 in RAX stands for; None if it is no status of this contract."""
        return _BY_WORD.get(word)


_BY_WORD = {status.word: status for status in Status}
