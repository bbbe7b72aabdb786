"""What a command or a flow step does, end to end: train, evaluate, gate, monitor."""
