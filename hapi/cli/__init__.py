"""The command line: parse, ask the broker, print, exit. docs/cli.md is its contract; typer is imported only here."""
