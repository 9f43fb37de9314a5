"""Standalone fuzz target of the harness `hypercalls`; takes libFuzzer flags.

python harnesses/fuzz_hypercalls.py corpus/hypercalls -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("hypercalls", sys.argv)
