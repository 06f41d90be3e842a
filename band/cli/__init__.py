"""The commands band-sweep, band-train, band-data and band-sync: one thin file a command."""
