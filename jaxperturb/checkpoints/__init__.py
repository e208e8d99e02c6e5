"""Weights on disk: bundled and known networks, checkpoint folders, and the files of PyTorch, Flax and Orbax."""

from jaxperturb.checkpoints.bundled import bundled as bundled
from jaxperturb.checkpoints.bundled import bundled_summaries as bundled_summaries
from jaxperturb.checkpoints.folder import save_checkpoint as save_checkpoint
from jaxperturb.checkpoints.load import load_network as load_network
from jaxperturb.checkpoints.load import load_weights as load_weights
from jaxperturb.checkpoints.manifest import Manifest as Manifest
from jaxperturb.checkpoints.manifest import read_manifest as read_manifest
