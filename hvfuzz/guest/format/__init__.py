"""The text form and the byte form of programs."""
