"""Short programs that use the library as its users do; each is run by a test."""
