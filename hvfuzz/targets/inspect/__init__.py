"""What the commands `repro --trace`, `cost` and `walk` show: op-by-op traces, cycle accounts and page walks."""
