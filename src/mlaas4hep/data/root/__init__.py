"""ROOT files: TTree and RNTuple. The only package that knows uproot.

uproot tells what is in a file; the bytes of columns are read by our own code where it knows their layout, by uproot
where it does not. Invariant: whatever is wrong with a file, `DataError` says so with its path; no other exception
leaves this package.
"""

from mlaas4hep.data.root.format import RootFormat
from mlaas4hep.data.root.rntuple import RNTupleSource
from mlaas4hep.data.root.ttree import TTreeSource

__all__ = ["RNTupleSource", "RootFormat", "TTreeSource"]
