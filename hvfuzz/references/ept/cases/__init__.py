"""Cases of the comparison with Bochs, and the builder that makes them."""
