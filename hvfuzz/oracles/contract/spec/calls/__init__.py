"""The specification of each family of hypercalls."""
