"""`hapi loadtest`: many sessions at once, numbered messages, an account of each, and what it all cost."""
