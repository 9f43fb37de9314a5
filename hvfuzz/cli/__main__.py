"""Entry point of ``python -m hvfuzz.cli``, which is the command ``hvfuzz``."""

from hvfuzz.cli import main

main()
