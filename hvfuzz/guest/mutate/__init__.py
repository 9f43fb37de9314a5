"""Mutation of programs: the table of mutators, and crossover."""
