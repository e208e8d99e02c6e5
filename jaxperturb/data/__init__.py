"""Data sets: labelled images from a library, from disk, from arrays or from a loader."""

from jaxperturb.data.arrays import from_arrays as from_arrays
from jaxperturb.data.catalogue import datasets as datasets
from jaxperturb.data.catalogue import load_dataset as load_dataset
from jaxperturb.data.dataset import Dataset as Dataset
from jaxperturb.data.folder import load_folder as load_folder
from jaxperturb.data.loaders import from_batches as from_batches
