"""Standalone fuzz target of the harness `noninterference`; takes libFuzzer flags.

python harnesses/fuzz_noninterference.py corpus/noninterference -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("noninterference", sys.argv)
