"""The benchmark: what the model does as a user sees it, measured and written up."""
