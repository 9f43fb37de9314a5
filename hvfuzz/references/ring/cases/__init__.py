"""Cases of the comparison of rings with Bochs, and the builder that makes them."""
