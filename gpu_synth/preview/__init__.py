"""Pictures of what is synthesised: slices, a gallery of single lesions, presets side by side; `gpu-synth preview` (`run`)."""
