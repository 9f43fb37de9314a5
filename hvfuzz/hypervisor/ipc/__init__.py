"""Inter-domain communication: lookup and bookkeeping of grants and event channels."""
