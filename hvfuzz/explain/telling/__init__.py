"""The explanation of a finding: put together, then told as text, as a page, and as data."""
