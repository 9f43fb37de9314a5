"""Exit statuses for errors, and the report of an internal error: one line for the user, the traceback in a file."""

import os
import tempfile
import traceback
from pathlib import Path
from typing import Final

EXIT_BAD_INPUT: Final = 2
"""Bad command line, or a file or folder that cannot be used."""
EXIT_INTERNAL: Final = 70
"""A bug in hvfuzz itself (EX_SOFTWARE of sysexits.h), as opposed to a finding (1) or bad input (2)."""

EXIT_PIPE: Final = 141
"""The reader of the output has gone: the status of a process that SIGPIPE ended."""


def record_internal_error(error: Exception) -> str:
    """Save the traceback of `error` to a temporary file and return the one-line message for the user."""
    handle, path = tempfile.mkstemp(prefix="hvfuzz-error-", suffix=".txt")
    os.close(handle)
    Path(path).write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    return f"internal error; please report it: {type(error).__name__}: {error} (details in {path})"
