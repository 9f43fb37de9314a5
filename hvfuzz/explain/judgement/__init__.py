"""What a finding means: how bad it is, which one is the root of the others, what it is called in the field."""
