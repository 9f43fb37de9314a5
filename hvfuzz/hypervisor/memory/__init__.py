"""Frames and tables: who owns each frame, what maps it, and how guest memory is read and written."""
