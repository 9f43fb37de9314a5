"""Programs run twice, with other secrets and acts of the domains that do not address the observer."""
