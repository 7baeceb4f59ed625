"""Deal one database out into a folder for each hospital, in PTB-XL's layout: what real hospitals would have.

With these a deployment can be tried out (``lavq deploy init --data``), and compared with the simulation, in which the
same hospitals hold the same records in the same order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from lavq_core.data.database import Database
from lavq_core.data.ptbxl import FILE_COLUMNS, STATEMENTS, TABLE
from lavq_core.errors import DataError, LavqError
from simulations.partitions import partition


def write_shares(database: Database, out: Path, scheme: str, sites: int, seed: int = 0) -> list[Path]:
    """Write each simulated hospital's share as a folder below ``out``; signal files are symbolic links.

    Args:
        database: what is dealt out.
        out: new folder.
        scheme: as ``partition.scheme``.
        sites: number of hospitals.
        seed: as ``partition.seed``.

    Raises:
        DataError: the folder is in use.
    """
    if out.exists():
        raise DataError(f"{out} is there already: give a new folder")
    listing = pd.read_csv(database.folder / TABLE, index_col="ecg_id", low_memory=False)
    folders = []
    for name, positions in partition(database.table, scheme, sites, seed).items():
        folder, rows = out / name, listing.loc[database.table.index[positions]]
        folder.mkdir(parents=True)
        rows.to_csv(folder / TABLE)
        (folder / STATEMENTS).write_bytes((database.folder / STATEMENTS).read_bytes())
        for record in rows[FILE_COLUMNS[database.sampling_rate]]:
            for suffix in (".hea", ".dat"):
                link = (folder / str(record)).with_suffix(suffix)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((database.folder / str(record)).with_suffix(suffix).resolve())
        folders.append(folder)
    return folders


def main() -> None:
    """Run ``python -m simulations.shares``."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.shares",
        description="Deal one database out into a folder for each hospital.",
        epilog="Example: python -m simulations.shares shares --data simulations/sample --sites 3",
    )
    parser.add_argument("out", metavar="DIR", help="new folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder in PTB-XL's layout")
    parser.add_argument("--sites", type=int, required=True, help="number of hospitals")
    parser.add_argument("--scheme", default="site", help="site (default), iid or dirichlet:ALPHA")
    args = parser.parse_args()
    try:
        for folder in write_shares(Database.open(args.data), Path(args.out), args.scheme, args.sites):
            sys.stdout.write(f"{folder}\n")
    except LavqError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
