"""The worker processes of a campaign."""
