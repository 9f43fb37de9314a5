"""What a user is told when hvfuzz itself is wrong: one line, and a file with the rest."""

import os
import tempfile
import traceback
from pathlib import Path
from typing import Final

EXIT_BAD_INPUT: Final = 2
"""The exit status of a mistake of the user's, and of files and folders that are not as they must be."""
EXIT_INTERNAL: Final = 70
"""The exit status of a mistake of ours (EX_SOFTWARE of sysexits.h): neither a finding nor bad input."""


def record_internal_error(error: Exception) -> str:
    """Write down where the error comes from; the line that says so."""
    handle, path = tempfile.mkstemp(prefix="hvfuzz-error-", suffix=".txt")
    os.close(handle)
    Path(path).write_text("".join(traceback.format_exception(error)))
    return f"internal error, a mistake of ours and not of yours: {type(error).__name__}: {error} (details in {path})"
