"""Standalone fuzz target of the harness `dma`; takes libFuzzer flags.

python harnesses/fuzz_dma.py corpus/dma -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("dma", sys.argv)
