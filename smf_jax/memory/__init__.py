"""Product-key memory: lookup, read, and the layers around them."""
