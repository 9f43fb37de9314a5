"""Generation of programs: values, single ops with their prerequisites, and templates."""
