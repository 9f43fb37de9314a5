"""``python -m hvfuzz.cli``: the same as the command ``hvfuzz``."""

from hvfuzz.cli import main

main()
