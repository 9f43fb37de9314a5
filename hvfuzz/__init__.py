"""hvfuzz: a coverage-guided fuzzing harness around a full emulated hypervisor."""

__version__ = "0.1.0"
