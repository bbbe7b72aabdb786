"""The command line `hire`: one module per group of commands."""
