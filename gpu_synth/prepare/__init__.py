"""`gpu-synth prepare`: the run itself (`run`), what it says at its end (`summary`), and pictures of all cases (`sheet`)."""
