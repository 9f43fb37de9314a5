"""`hvfuzz bench`: the benchmarks, one module for each."""
