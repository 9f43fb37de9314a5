"""Noninterference: what one domain observes is the same in two runs that differ only in what others hold and do."""
