"""Networks as functions of a parameter tree and images, and the architectures that come with jaxperturb."""
