"""What domains share: grants and event channels."""
