"""The rules of the hypercalls, a module for each family."""
