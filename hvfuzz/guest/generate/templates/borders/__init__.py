"""Templates that go to the borders of what there is: one past, just at, exactly as much as is left."""
