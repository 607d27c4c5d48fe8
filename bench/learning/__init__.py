"""Does a network learn from synthetic tumours, and from which: one experiment, run by run, and its tables."""
