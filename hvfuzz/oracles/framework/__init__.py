"""What all oracles have in common, and the suite that runs them."""
