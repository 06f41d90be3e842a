"""The report as one HTML page that opens from disk: text, tables, pictures and data in it, nothing from a network."""
