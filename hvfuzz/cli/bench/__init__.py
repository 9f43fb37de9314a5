"""`hvfuzz bench` and its subcommands."""
