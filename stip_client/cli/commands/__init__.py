"""The subcommands of stip-client, one module each."""
