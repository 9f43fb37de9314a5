"""Guest programs: what they are made of, their text and byte forms, how they come about, and how they run."""
