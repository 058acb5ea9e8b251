"""Files that hold customers' data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from console.runtime import ConsoleError


def made(file: Path) -> TextIO:
    """A new file that only its owner may read; raises ConsoleError when there is one."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConsoleError(f"{file} exists: it is not written over, choose another name") from None
    except OSError as error:
        raise ConsoleError(f"{file} cannot be written: {error.strerror}") from error
    os.fchmod(descriptor, 0o600)  # whatever the umask says
    return os.fdopen(descriptor, "w", encoding="utf-8")
