"""What a person sees of a study: tables and figures."""
