"""The base class of oracles, the events they listen to, and the suite that runs them."""
