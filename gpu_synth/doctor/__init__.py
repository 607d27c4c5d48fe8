"""`gpu-synth doctor`: what is found (`run`), what is installed, the engine's self-test, and how all that is told (`report`)."""
