"""The command line: one module a command, with its options, the call of the library, and what it prints."""
