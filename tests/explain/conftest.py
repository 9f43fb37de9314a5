"""Fixtures of the explanations."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def text() -> Callable[..., str]:
    """text(op, ...) is a program of these ops in world `pair`."""
    return lambda *ops: "\n".join(["# hvp 1", "world pair", *ops]) + "\n"
