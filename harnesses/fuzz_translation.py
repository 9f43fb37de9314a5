"""Standalone fuzz target of the harness `translation`; takes libFuzzer flags.

python harnesses/fuzz_translation.py corpus/translation -max_total_time=30
"""

import sys

from hvfuzz.campaign.workers.harness_main import main

if __name__ == "__main__":
    main("translation", sys.argv)
