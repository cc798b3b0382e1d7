"""The bridges to the libraries that train: one package each, and no other room imports them."""
