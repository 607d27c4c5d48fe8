"""`gpu-synth synthesize`: scans on disk in, scans with tumours out. `run` does all of them, `volume` one; `data_card` tells what came."""
