"""Where the engine meets a training loop."""
