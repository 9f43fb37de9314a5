"""Standalone fuzz target of the harness `abi`; takes libFuzzer flags.

python harnesses/fuzz_abi.py corpus/abi -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("abi", sys.argv)
