"""HTML reports: one file each, without scripts, fonts or requests to a network."""
