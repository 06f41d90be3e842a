"""`band-sync`: says what it will do once it is there, and how to bring results home until then."""

from __future__ import annotations

import sys

NOT_YET = 2  # as for a command used wrongly: nothing was done, and trying again will not help

TEXT = """\
band-sync is not there yet, and has copied nothing.

It will bring the published runs of a sweep from a cluster to this machine: over ssh, only what is new, each run
checked against the sizes and digests in its result.json before it counts as here, and continued where it broke off.

Until then a sweep folder can be copied by any means while it is being written to: a run stands under runs/ only when
it is complete. For example:

    rsync -a --partial cluster:project/experiments/sweeps/NAME/ experiments/sweeps/NAME/

and `band-sweep report NAME` works on the copy."""


def main(argv: list[str] | None = None) -> int:
    """Print what `band-sync` will do; return 0 where that was asked for by --help, else 2."""
    arguments = sys.argv[1:] if argv is None else argv
    asked = bool({"-h", "--help"} & set(arguments))
    print(TEXT, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else NOT_YET


if __name__ == "__main__":
    raise SystemExit(main())
