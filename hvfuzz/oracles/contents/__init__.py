"""What memory holds, and what leaves it: expected contents of each frame, and the ways out."""
