"""Recordings of other formats become recordings of ours: one small file a format, one way to check and write them.

`import_files` of `plan` is the way in, from Python as from the command line.
"""
