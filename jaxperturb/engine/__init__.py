"""The engine: what is asked of a network's lesions, computed with no work done twice."""
