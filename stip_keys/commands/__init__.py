"""stip-keys' commands, one module each: add_parser adds it to the command line."""
