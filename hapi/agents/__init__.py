"""The agents: a table of what they are (`table`) and the demo agent that ships with us (`demo`)."""
