"""What the subcommands of `convoy` do; each module has `run(args) -> exit code`."""
