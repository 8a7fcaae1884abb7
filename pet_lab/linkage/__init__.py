"""Record linkage with typos: encodings, comparison, error models and corrected totals.

The first file `a` is searched for in the second file `b`; x is an analytical variable that the
first party holds, z one that the second holds. All functions are pure; randomness is an argument.
The most used names are here; the modules hold the rest.
"""

# ruff: noqa: F401 - the package's face
from pet_lab.linkage import bloom, chunks, filters, totals
from pet_lab.linkage.blocking import Blocks, Links, block, link, link_exact, resolve
from pet_lab.linkage.bloom import LongTermKey, PprlCompat, RecordFilter, encode
from pet_lab.linkage.filters import Filters, dice_all, dice_pairs
from pet_lab.linkage.neighbours import fit_neighbours, fit_overlap, fit_slope
from pet_lab.linkage.peer import splink_links
from pet_lab.linkage.trade import TradeDeclarations, Typos, trade_declarations
