"""Studies: what is asked, where its outcomes are kept, and how it is run."""
