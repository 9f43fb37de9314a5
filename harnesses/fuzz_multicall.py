"""Standalone fuzz target of the harness `multicall`; takes libFuzzer flags.

python harnesses/fuzz_multicall.py corpus/multicall -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("multicall", sys.argv)
