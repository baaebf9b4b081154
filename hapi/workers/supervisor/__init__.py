"""The session supervisor: one process per session, parent of its agent, sole writer of its directory."""
