"""What happens in one run, as data."""
