"""Data sets: labelled images from a library or from arrays."""

from jaxperturb.data.catalogue import datasets as datasets
from jaxperturb.data.catalogue import load_dataset as load_dataset
from jaxperturb.data.dataset import Dataset as Dataset
from jaxperturb.data.dataset import from_arrays as from_arrays
