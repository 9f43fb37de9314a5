"""The oracle `specification`: the executable specification of the ABI (`spec/`), and its bridge to the machine."""
