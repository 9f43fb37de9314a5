"""The contract: the executable specification, and the bridge from the machine to it."""
