"""Programs as text and as bytes."""
