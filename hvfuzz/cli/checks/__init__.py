"""The commands that check an installation: `doctor`, `reference`."""
