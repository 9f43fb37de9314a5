"""The worker processes of a campaign: starting, supervising and stopping them."""
