"""What a command or a flow step does, end to end: fit, train, evaluate, gate."""
